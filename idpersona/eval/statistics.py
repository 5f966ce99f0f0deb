"""Intervals by bootstrap over people, paired differences, and when not to rank.

People, not pictures, are drawn with replacement: several pictures of one person are not independent, and an
interval over pictures would be too narrow. Method: Efron and Tibshirani, percentile bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from idpersona.errors import BadInput

Verdict = Literal["higher", "lower", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` people with the bounds of its percentile interval."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def bootstrap(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of one value per person and its interval.

    Args:
        values: float [people]; finite. A person's pictures are averaged before they come here.
        level: coverage, between 0 and 1.
        samples: number of resamples.
        seed: of the resampling; the same seed resamples the same people in every row.

    Raises:
        BadInput: no value, one that is not finite, a level outside 0..1, or no samples.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise BadInput(f"bootstrap needs one value per person, got shape {list(data.shape)}")
    if not np.isfinite(data).all():
        raise BadInput("bootstrap needs finite values: a face that was not found counts 0, not NaN")
    if not 0 < level < 1 or samples < 1:
        raise BadInput(
            f"bootstrap level must lie between 0 and 1 and samples above 0, got {level}, {samples}"
        )
    rng = np.random.default_rng(seed)
    means = np.array([data[rng.integers(data.size, size=data.size)].mean() for _ in range(samples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high), int(data.size))


def paired_difference(
    later: Sequence[float] | np.ndarray,
    earlier: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``later - earlier`` person by person (same people, same seeds) with its interval.

    Raises:
        BadInput: the two do not hold the same number of people.
    """
    a, b = np.asarray(later, dtype=np.float64), np.asarray(earlier, dtype=np.float64)
    if a.shape != b.shape:
        raise BadInput(f"a paired difference needs the same people, got {list(a.shape)} and {list(b.shape)}")
    return bootstrap(a - b, level=level, samples=samples, seed=seed)


def verdict(a: Interval, b: Interval) -> Verdict:
    """Whether ``a`` is higher or lower than ``b``; ``undecided`` as soon as the intervals touch."""
    if a.low > b.high:
        return "higher"
    return "lower" if a.high < b.low else "undecided"


def ranking(rows: Mapping[str, Interval]) -> list[list[str]]:
    """Names in groups, best mean first; two names share a group when a chain of overlapping intervals joins
    them.

    One group means: nothing may be ranked.
    """
    ordered = sorted(rows, key=lambda name: -rows[name].mean)
    groups: list[list[str]] = []
    lowest = np.inf
    for name in ordered:
        if groups and rows[name].high >= lowest:
            groups[-1].append(name)
            lowest = min(lowest, rows[name].low)
        else:
            groups.append([name])
            lowest = rows[name].low
    return groups
