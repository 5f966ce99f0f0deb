"""Progress of long work: a bar on a terminal, plain lines otherwise; always on stderr, so that JSON stays
clean.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T] | Iterable[T], label: str, *, total: int, quiet: bool = False) -> Iterator[T]:
    """Yield ``items`` while showing how far they are; without a terminal one line per tenth of the work."""
    if quiet:
        yield from items
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=label, total=total, console=Console(stderr=True))
        return
    step = max(1, total // 10)
    for done, item in enumerate(items, start=1):
        yield item
        if done % step == 0 or done == total:
            print(f"{label}: {done}/{total}", file=sys.stderr, flush=True)
