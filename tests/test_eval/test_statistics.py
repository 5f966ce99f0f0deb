"""Bootstrap intervals cover what they promise, and nothing is ranked that overlaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from idpersona.errors import BadInput
from idpersona.eval.statistics import Interval, bootstrap, paired_difference, ranking, verdict


def test_interval_covers_the_true_mean_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        interval = bootstrap(rng.normal(0.3, 0.2, size=60), samples=300, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    # 95 % of 300 is 285; the percentile bootstrap of 60 people is a little narrow.
    assert 0.90 <= hits / 300 <= 0.985


def test_half_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(2).normal(size=400)
    interval = bootstrap(values, samples=4000)
    expected = 1.96 * values.std() / math.sqrt(400)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.08)
    assert interval.mean == pytest.approx(values.mean()) and interval.n == 400


def test_equal_values_have_no_width_and_one_seed_gives_one_answer() -> None:
    assert bootstrap([0.5] * 10) == Interval(0.5, 0.5, 0.5, 10)
    values = np.arange(20.0)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "one value per person"),
        ([[1.0]], {}, "one value per person"),
        ([1.0, float("nan")], {}, "finite"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0], {"samples": 0}, "samples"),
    ],
)
def test_bad_values_are_refused(values: list, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        bootstrap(values, **options)


def test_paired_difference_is_far_narrower_than_the_rows() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(0.3, 0.2, size=100)
    later = people + 0.02 + rng.normal(0, 0.005, size=100)
    step = paired_difference(later, people)
    assert 0.018 < step.low < step.mean < step.high < 0.022
    assert verdict(bootstrap(later), bootstrap(people)) == "undecided"
    with pytest.raises(BadInput, match="same people"):
        paired_difference(later[:5], people)


def test_verdict_needs_intervals_that_are_apart() -> None:
    low, high, wide = Interval(0.1, 0.0, 0.2, 9), Interval(0.5, 0.4, 0.6, 9), Interval(0.3, 0.1, 0.5, 9)
    assert (verdict(high, low), verdict(low, high)) == ("higher", "lower")
    assert verdict(high, wide) == verdict(wide, low) == "undecided"
    touching = Interval(0.3, 0.2, 0.4, 9)
    assert verdict(touching, low) == "undecided"


def test_ranking_joins_what_a_chain_of_overlaps_connects() -> None:
    rows = {
        "real": Interval(0.7, 0.68, 0.72, 9),
        "b": Interval(0.30, 0.25, 0.35, 9),
        "a": Interval(0.36, 0.33, 0.39, 9),
        "c": Interval(0.22, 0.18, 0.26, 9),
        "floor": Interval(0.0, -0.01, 0.01, 9),
    }
    assert ranking(rows) == [["real"], ["a", "b", "c"], ["floor"]]
    wide = rows | {"everything": Interval(0.4, -0.1, 0.9, 9)}
    assert len(ranking(wide)) == 1
