"""Calibration: the threshold keeps the false-match rate on people it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from idpersona.errors import BadInput, UnknownName
from idpersona.eval.threshold import Person, calibrate, embed_people
from idpersona.safety.thresholds import centroid, distances, get_threshold, load_thresholds, store_threshold


def crowd(count: int, seed: int, dim: int = 24, photos: int = 6, source: str = "a") -> list[Person]:
    random = np.random.default_rng(seed)
    people = []
    for index in range(count):
        rows = random.normal(size=dim) + 0.35 * random.normal(size=(photos, dim))
        people.append(Person(rows.astype(np.float32), source, "odd" if index % 2 else "even"))
    return people


@pytest.mark.parametrize("encoder", ["dlib", "antelopev2"])
def test_rate_holds_on_fresh_people(encoder):
    threshold = calibrate(encoder, crowd(200, seed=1), fmr=1e-3)
    assert threshold.fmr <= 1e-3
    assert threshold.pairs == 200 * 199 * 3
    random = np.random.default_rng(5)
    known = np.stack([centroid(p.rows, threshold.measure) for p in crowd(300, seed=2)])
    strangers = random.normal(size=(1000, 24))
    rate = (distances(strangers, known, threshold.measure) <= threshold.distance).mean()
    assert rate <= 2e-3
    assert threshold.fnmr < 0.1


def test_pairs_across_sources_are_left_out():
    twins = crowd(60, seed=1, source="a") + crowd(60, seed=1, source="b")
    assert calibrate("dlib", twins, fmr=1e-2).fnmr < 0.1
    one_source = [Person(person.rows, "a", person.group) for person in twins]
    assert calibrate("dlib", one_source, fmr=1e-3).distance < calibrate("dlib", twins, fmr=1e-3).distance


def test_groups_are_reported():
    threshold = calibrate("dlib", crowd(100, seed=3), fmr=1e-2)
    assert set(threshold.groups) == {"odd", "even"}
    assert np.mean(list(threshold.groups.values())) == pytest.approx(threshold.fmr, abs=5e-3)


def test_too_few_pairs_are_refused():
    with pytest.raises(BadInput, match="too few"):
        calibrate("dlib", crowd(10, seed=1), fmr=1e-3)
    with pytest.raises(BadInput, match="between 0 and 1"):
        calibrate("dlib", crowd(10, seed=1), fmr=float("nan"))


def test_thresholds_are_stored_beside_each_other(tmp_path):
    file = tmp_path / "t.json"
    for encoder in ("dlib", "antelopev2"):
        store_threshold(calibrate(encoder, crowd(60, seed=1), fmr=1e-2), file)
    assert set(load_thresholds(file)) == {"dlib", "antelopev2"}


def test_committed_threshold_of_the_default_encoder():
    threshold = get_threshold("dlib")
    assert threshold.fmr <= 1e-3
    assert threshold.pairs >= 50_000
    assert 0.3 < threshold.distance < 0.7
    with pytest.raises(UnknownName, match="dlib"):
        get_threshold("dlibb")


def test_descriptors_are_read_from_the_archives(faces_folder):
    people = embed_people(faces_folder, "dlib", ("lfw",), people=2, photos=2)
    assert len(people) == 2
    for person in people:
        assert person.source == "lfw" and person.group in ("male", "female")
        assert person.rows.shape == (2, 128)
