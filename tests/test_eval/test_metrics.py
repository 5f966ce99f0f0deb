"""The definitions on embeddings whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from idpersona.errors import BadInput
from idpersona.eval.metrics import (
    balanced_accuracy,
    balanced_hits,
    cosines,
    keypoint_error,
    normalise,
    own_and_others,
    person_means,
    prototype,
    rank_one,
    shuffled_errors,
)


def test_prototype_weighs_photos_alike_whatever_their_length() -> None:
    photos = np.array([[10.0, 0.0], [0.0, 0.1]])
    assert prototype(photos) == pytest.approx([0.5**0.5, 0.5**0.5])
    with pytest.raises(BadInput, match="at least one"):
        prototype(np.zeros((0, 4)))
    with pytest.raises(BadInput, match="cancel out"):
        prototype(np.array([[1.0, 0.0], [-1.0, 0.0]]))


def test_cosines_own_and_others_by_hand() -> None:
    prototypes = np.eye(3)
    pictures = np.array([[3.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.0, 0.0, 0.0]])
    table = cosines(pictures, prototypes)
    own, others = own_and_others(table, np.array([0, 1, 2]))
    assert own == pytest.approx([1.0, 0.6, 0.0])
    assert others == pytest.approx([0.0, 0.4, 0.0])
    with pytest.raises(BadInput, match="two people"):
        own_and_others(np.ones((1, 1)), np.array([0]))


def test_a_picture_without_a_face_counts_zero() -> None:
    assert not normalise(np.zeros((2, 4))).any()


def test_rank_one_of_perfect_blind_and_undetected_pictures() -> None:
    people = 40
    owners = np.arange(people)
    everyone = np.ones(people, dtype=bool)
    assert rank_one(np.eye(people), owners, everyone).mean() == 1.0
    assert rank_one(np.eye(people), owners, ~everyone).mean() == 0.0
    # A constant table says nothing: ties are misses.
    assert rank_one(np.ones((people, people)), owners, everyone).mean() == 0.0
    blind = np.random.default_rng(0).normal(size=(2000, people))
    rows = np.arange(2000)
    rate = rank_one(blind, rows % people, rows >= 0, gallery=8, galleries=10).mean()
    assert rate == pytest.approx(1 / 8, abs=0.03)


def test_rank_one_matches_the_hypergeometric_expectation() -> None:
    """One of 9 strangers is nearer than the own prototype: the miss rate is the chance to draw that one."""
    table = np.zeros((1, 10))
    table[0, 4], table[0, 7] = 0.5, 0.9
    rate = rank_one(table, np.array([4]), np.array([True]), gallery=4, galleries=4000)[0]
    assert rate == pytest.approx(1 - 3 / 9, abs=0.03)
    with pytest.raises(BadInput, match="cannot be drawn"):
        rank_one(table, np.array([4]), np.array([True]), gallery=11)


def test_people_weigh_alike_however_many_pictures() -> None:
    means = person_means(np.array([1.0, 0.0, 0.0, 1.0]), np.array([0, 1, 1, 1]), 2)
    assert means == pytest.approx([1.0, 1 / 3])
    with pytest.raises(BadInput, match="no picture"):
        person_means(np.ones(1), np.array([0]), 2)


def test_balanced_hits_of_a_model_that_always_smiles_are_one_half() -> None:
    always = np.ones(6, dtype=bool)
    assert balanced_hits(always, always).mean() == 0.5
    assert balanced_hits(always, ~always).mean() == 1.0
    assert balanced_hits(~always, always).mean() == 0.0
    with pytest.raises(BadInput, match="same seeds"):
        balanced_hits(always, always[:3])


def test_balanced_accuracy_does_not_reward_the_common_answer() -> None:
    truth = np.array([True] + [False] * 9)
    assert balanced_accuracy(np.zeros(10, dtype=bool), truth) == 0.5
    assert balanced_accuracy(truth, truth) == 1.0
    with pytest.raises(BadInput, match="with and without"):
        balanced_accuracy(truth, np.zeros(10, dtype=bool))


def test_keypoint_errors_in_percent_of_the_width() -> None:
    points = np.zeros((5, 2))
    moved = points + np.array([3.0, 4.0])
    assert keypoint_error(moved, points, 128) == pytest.approx(5 / 128 * 100)
    far = points + np.array([0.0, 64.0])
    errors = shuffled_errors([points, None, far], [points, moved, far], 128)
    assert errors[1] is None
    assert errors[0] == pytest.approx((5 + 64) / 2 / 128 * 100)
    assert shuffled_errors([points], [points], 128) == [None]
