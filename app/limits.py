"""How often one client may ask."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from idpersona.errors import IdPersonaError

CLIENTS = 10_000


class TooOften(IdPersonaError):
    """A client asks too often; ``seconds`` says when to come back."""

    def __init__(self, seconds: float):
        self.seconds = max(1, round(seconds + 0.5))
        super().__init__(f"too many requests: try again in {self.seconds} s")


class RateLimiter:
    """A bucket of tokens for each client, filled evenly.

    Args:
        per_minute: requests in the long run; as many may come at once.
        clock: seconds, for tests.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self._most, self._clock = float(per_minute), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str, amount: float = 1.0) -> None:
        """Count one request, or ``amount`` of something; 0 asks whether one is left.

        Raises:
            TooOften: the client has none left.
        """
        with self._lock:
            now = self._clock()
            left, since = self._buckets.pop(client, (self._most, now))
            left = min(self._most, left + (now - since) * self._most / 60)
            needed = min(amount or 1.0, self._most)
            enough = left >= needed
            self._buckets[client] = (left - amount if enough else left, now)
            while len(self._buckets) > CLIENTS:
                self._buckets.popitem(last=False)
            if not enough:
                raise TooOften((needed - left) * 60 / self._most)
