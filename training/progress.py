"""Progress of a training: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich import progress


class Progress:
    """Averages the figures since the last report and shows them with samples/s and the time left.

    A figure that not every step has is averaged over those that have it.
    """

    def __init__(self, name: str, steps: int, batch_size: int, start: int, *, enabled: bool):
        self._steps, self._batch, self._enabled = steps, batch_size, enabled
        self._sums: dict[str, list[float]] = {}
        self._count = 0
        self._since = time.perf_counter()
        self._bar: progress.Progress | None = None
        self._name = name
        if enabled and sys.stderr.isatty():
            bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
            )
            bar.start()
            self._task = bar.add_task(name, total=steps, completed=start)
            self._bar = bar

    def update(self, step: int, figures: Mapping[str, float], *, every: int) -> dict[str, float]:
        """Count one step; report when ``step`` is a multiple of ``every`` or the last, and return the means.

        At other steps, and where this process does not report, the answer is empty.
        """
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)
        self._count += 1
        if not self._enabled or (step % every and step != self._steps):
            return {}
        seconds = time.perf_counter() - self._since
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        speed = self._batch * self._count / seconds
        line = f"{' '.join(f'{k} {v:.4f}' for k, v in means.items())} {speed:.1f} samples/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"{self._name} {line}")
        else:
            left = (self._steps - step) * seconds / self._count / 60
            print(
                f"{self._name} step {step}/{self._steps} {line} {left:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
        self._sums, self._count, self._since = {}, 0, time.perf_counter()
        return {**means, "samples_per_second": speed}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done in this scope takes none of the steps' time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - start

    def say(self, line: str) -> None:
        """Print a line; a bar stays below it."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif self._enabled:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
