"""Two people in one picture, and sliders: their figures by hand, and whole runs on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idpersona.errors import BadInput, UnknownName
from idpersona.eval import evaluate_pairs, evaluate_sliders
from idpersona.eval.generation import Studio
from idpersona.eval.pairs import leads
from idpersona.eval.scoring import known_people, sit
from idpersona.eval.sliders import figures
from idpersona.eval.subjects import gather_subjects
from idpersona.testing.wplus import tiny_wplus


@pytest.fixture
def wide(studio: Studio) -> Studio:
    return studio.sized(128, 64)


def test_pairs_end_to_end(
    studio: Studio,
    wide: Studio,
    protocol: Any,
    judge: Any,
    finder: Any,
    store: Any,
    face_cache: Path,
    tmp_path: Path,
) -> None:
    tools = {"judges": [judge], "finder": finder, "store": store, "cache": face_cache}
    report = evaluate_pairs(wide, studio, protocol, **tools, pairs=2)
    assert [row["row"] for row in report.rows] == ["together", "each alone"]
    # The tiny base draws noise: no face, so nobody is right.
    assert report.rows[0]["detection"].mean == report.rows[0]["pairs_right"].mean == 0
    assert len(report.people) == 4
    assert wide.drawn == 2 and studio.drawn == 4
    evaluate_pairs(wide, studio, protocol, **tools, pairs=2)
    assert wide.drawn == 2 and studio.drawn == 4, "a second run must take every picture from the cache"
    assert [path.suffix for path in report.write(tmp_path)] == [".json", ".md", ".png"]
    with pytest.raises(BadInput, match="3 pairs need 6 people, 5 could be read: ask for at most 2 pairs"):
        evaluate_pairs(wide, studio, protocol, **tools, pairs=3)
    bare = Studio(studio.pipe, steps=1, guidance=2.0, size=64, quiet=True)
    with pytest.raises(BadInput, match="needs an adapter"):
        evaluate_pairs(bare, bare, protocol, **tools)


def test_a_face_leads_when_it_is_its_own_person(
    protocol: Any, judge: Any, finder: Any, store: Any, face_cache: Path, noise_picture: Image.Image
) -> None:
    four = protocol.model_copy(update={"people": 4})
    subjects, _ = gather_subjects(four, store, finder, cache=face_cache, quiet=True)
    prototypes = known_people(subjects, judge).prototypes
    own = [subject.others[0].framed(160)[0] for subject in subjects]
    right = leads(sit("r", own, range(4), finder, quiet=True), judge, prototypes)
    swapped = leads(
        sit("s", [own[1], own[0], noise_picture, own[2]], range(4), finder, quiet=True), judge, prototypes
    )
    assert right.shape == (4,) and np.isfinite(right).all()
    assert np.allclose(swapped[:2], -right[[1, 0]], atol=1e-6)
    assert np.isnan(swapped[2]) and swapped[3] == pytest.approx(-right[2], abs=1e-6)


def test_sliders_by_hand(protocol: Any) -> None:
    said = np.array(
        [
            [0.1, 0.6, 0.1, 0.3],
            [0.2, 0.7, 0.2, 0.2],
            [0.3, 0.8, 0.4, 0.4],
            [0.6, 0.9, 0.4, 0.4],
            [0.9, 0.95, 0.3, 0.7],
        ]
    )
    # Flips: the first at half and end, the second never (it has the attribute and keeps it), the third
    # never, the fourth at the end only.
    likeness = np.array([[0.5, 0.5, 0.5, 0.5]] * 2 + [[0.6] * 4] + [[0.5] * 4] + [[0.3, 0.1, 0.2, 0.1]])
    found = figures(said, {"j": likeness}, 4.0, protocol)
    assert found["monotonic"].mean == found["strictly"].mean == 0.5
    assert found["flips"].mean == 0.5
    # Median of the steps 1 and 2 is 1.5, and the next larger step is the end.
    assert found["flipping_amount"] == 4.0
    # The second one's own way leads down, to 0.5.
    assert found["fall"]["j"].mean == pytest.approx(np.mean([0.3, 0.1, 0.4, 0.5]))
    still = figures(np.full((5, 3), 0.9), {"j": np.ones((5, 3))}, 2.0, protocol)
    assert still["monotonic"].mean == 1.0 and still["flips"].mean == 0.0
    # A fall of 0.004 is noise, two of them that add up to 0.012 are not.
    rough = np.array([[0.001, 0.5], [0.006, 0.6], [0.002, 0.594], [0.004, 0.588], [0.9, 0.9]])
    found = figures(rough, {"j": np.ones((5, 2))}, 2.0, protocol)
    assert found["monotonic"].mean == 0.5 and found["strictly"].mean == 0.0
    assert still["flipping_amount"] is None and still["fall"]["j"] is None


def test_sliders_end_to_end(
    pipe: Any,
    protocol: Any,
    judge: Any,
    classifier: Any,
    finder: Any,
    store: Any,
    face_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from idpersona import read_identity
    from idpersona.identity import Feature

    adapter = tiny_wplus(pipe.unet)

    def read(photos: Any, **_options: Any) -> Any:
        """The face by dlib, its codes made up: there is no tiny encoder of this W+ space."""
        me = read_identity(photos)
        rows, dim = adapter.config.rows, adapter.config.dim
        values = np.resize(me.features["dlib"].values, (rows, dim)).astype(np.float32)
        return type(me)("face", {"e4e": Feature("e4e", values, tokens=rows)}, me.keypoints, me.image_size)

    monkeypatch.setattr(adapter, "read", read)
    studio = Studio(pipe, adapter, steps=2, guidance=2.0, size=64, cache=tmp_path / "p", quiet=True)
    tools = {"judges": [judge], "classifier": classifier, "finder": finder, "store": store}
    report = evaluate_sliders(studio, protocol, directions=["smile"], **tools, cache=face_cache)
    assert [row["direction"] for row in report.rows] == ["smile"]
    assert studio.drawn == 15
    assert len(report.people[0]["smile"]["score"]) == 5
    assert report.write(tmp_path / "out")
    with pytest.raises(UnknownName, match="did you mean smile"):
        evaluate_sliders(studio, protocol, directions=["smiel"], **tools)
    with pytest.raises(BadInput, match="editing directions"):
        evaluate_sliders(
            Studio(pipe, steps=1, guidance=2.0, size=64, quiet=True), protocol, directions=["smile"], **tools
        )
