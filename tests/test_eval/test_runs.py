"""The four evaluations end to end, on tiny real models and one public-domain face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval import evaluate_identity, evaluate_pose, evaluate_prompt, evaluate_reconstruction
from idpersona.eval.autoencoder import roundtrip
from idpersona.eval.generation import Studio
from idpersona.eval.pictures import psnr, ssim
from idpersona.eval.scoring import known_people, score, sit
from idpersona.eval.subjects import gather_subjects


def test_identity_has_floor_scales_real_and_ceiling(
    studio: Studio, protocol: Any, judge: Any, finder: Any, store: Any, face_cache: Path, tmp_path: Path
) -> None:
    report = evaluate_identity(
        studio,
        protocol,
        judges=[judge],
        finder=finder,
        store=store,
        cache=face_cache,
        settings={"base": "tiny"},
    )
    rows = {row["row"]: row for row in report.rows}
    assert list(rows) == [
        "base without identity",
        "scale 0",
        "scale 1",
        "real photos",
        "real photos through the VAE",
    ]
    # The tiny base draws noise: no face, so every score of it is exactly 0.
    floor, real = rows["base without identity"], rows["real photos"]
    assert floor["detection"].mean == floor["own"].mean == floor["rank1"].mean == 0.0
    assert floor["own_when_found"] is None
    assert real["detection"].mean == 1.0 and real["own"].mean == pytest.approx(real["own_when_found"])
    assert real["own"].mean > 0.5 and real["own"].n == 3
    assert any("rank-1 is among 3, not 32" in note for note in report.notes)
    assert any("paired step 0 -> 1" in note for note in report.notes)
    assert len(report.people) == 3 and set(report.people[0]["tiny-judge"]) == set(rows)
    assert report.weights["adapter"] == studio.adapter_sha256 and report.settings["base"] == "tiny"
    drawn = studio.drawn
    evaluate_identity(studio, protocol, judges=[judge], finder=finder, store=store, cache=face_cache)
    assert studio.drawn == drawn, "a second run must take every picture from the cache"
    assert [path.suffix for path in report.write(tmp_path)] == [".json", ".md", ".png"]


def test_identity_without_an_adapter_measures_floor_and_ceiling(
    pipe: Any, protocol: Any, judge: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    bare = Studio(pipe, steps=2, guidance=2.0, size=64, quiet=True)
    report = evaluate_identity(bare, protocol, judges=[judge], finder=finder, store=store, cache=face_cache)
    assert [row["row"] for row in report.rows] == [
        "base without identity",
        "real photos",
        "real photos through the VAE",
    ]
    assert report.weights["adapter"] is None
    with pytest.raises(BadInput, match="at least one judge"):
        evaluate_identity(bare, protocol, judges=[], finder=finder, store=store)


def test_scores_follow_the_owners_past_a_picture_without_a_face(
    protocol: Any, judge: Any, finder: Any, store: Any, face_cache: Path, noise_picture: Image.Image
) -> None:
    """Two pictures of each of three people, one of them noise; every number by hand."""
    subjects, _ = gather_subjects(protocol, store, finder, cache=face_cache, quiet=True)
    known = known_people(subjects, judge)
    prototypes = known.prototypes
    faces = [subject.others[0].framed(160)[0] for subject in subjects]
    pictures = [faces[0], noise_picture, faces[1], faces[2], faces[2], faces[1]]
    owners = [0, 0, 1, 1, 2, 2]
    sitting = sit("mixed", pictures, owners, finder, quiet=True)
    assert [face is not None for face in sitting.faces] == [True, False, True, True, True, True]
    result = score(sitting, judge, known, protocol)
    seen = [(p, f.keypoints) for p, f in zip(sitting.pictures, sitting.faces, strict=True) if f is not None]
    vectors = judge.embed([p for p, _ in seen], [k for _, k in seen])
    table = vectors @ prototypes.T / np.linalg.norm(vectors, axis=1, keepdims=True)
    own = [table[0, 0] / 2, (table[1, 1] + table[2, 1]) / 2, (table[3, 2] + table[4, 2]) / 2]
    assert result.own == pytest.approx(own, abs=1e-5)
    assert result.detection.tolist() == [0.5, 1.0, 1.0]
    others = [(table[0, 1] + table[0, 2]) / 4, np.mean([table[1, [0, 2]], table[2, [0, 2]]])]
    assert result.others[:2] == pytest.approx(others, abs=1e-5)
    assert result.own_when_found == pytest.approx(
        np.mean([table[n, o] for n, o in enumerate([0, 1, 1, 2, 2])])
    )
    near = [
        vectors[n] @ known.references[o] / np.linalg.norm(vectors[n]) for n, o in enumerate([0, 1, 1, 2, 2])
    ]
    assert result.reference == pytest.approx([near[0] / 2, np.mean(near[1:3]), np.mean(near[3:])], abs=1e-5)
    photos = [subject.reference for subject in subjects]
    read = judge.embed([p.image for p in photos], [p.keypoints for p in photos])
    assert np.allclose(known.references, read / np.linalg.norm(read, axis=1, keepdims=True), atol=1e-6)
    # With three people the gallery is all of them.
    best = table.argmax(axis=1)
    hits = [(best[0] == 0) / 2, np.mean(best[1:3] == 1), np.mean(best[3:] == 2)]
    assert result.rank1 == pytest.approx(hits)


def test_a_drawn_face_is_measured_against_the_points_asked_for(
    studio: Studio, protocol: Any, finder: Any, store: Any, face_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the base drew the photos themselves, all 3 px to the right of where they were asked for."""

    def perfect(shots: Any, _label: str) -> list[Image.Image]:
        actors = gather_subjects(protocol, store, finder, cache=face_cache, quiet=True)[0]
        pictures = []
        for shot, subject in zip(shots, actors, strict=True):
            photo = subject.reference
            matrix, _ = cv2.estimateAffinePartial2D(photo.keypoints, shot.pose + np.float32([3, 0]))
            pixels = cv2.warpAffine(
                np.asarray(photo.image), matrix, (64, 64), borderMode=cv2.BORDER_REPLICATE
            )
            pictures.append(Image.fromarray(pixels))
        return pictures

    monkeypatch.setattr(studio, "draw", perfect)
    report = evaluate_pose(studio, protocol, finder=finder, reader=finder, store=store, cache=face_cache)
    drawn = report.rows[0]
    assert drawn["detection"].mean == 1.0
    assert drawn["error_percent"].mean == pytest.approx(3 / 64 * 100, abs=1.5)


def test_prompt_pairs_base_and_identity_on_the_same_seeds(
    studio: Studio, protocol: Any, classifier: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    report = evaluate_prompt(
        studio, protocol, classifier=classifier, finder=finder, store=store, cache=face_cache
    )
    rows = {row["attribute"]: row for row in report.rows}
    assert set(rows) == {"Smiling", "Young"}
    smiling = rows["Smiling"]
    assert smiling["base"].n == 3 and smiling["with_identity"].n == 2
    values = report.people[0]
    expected = np.mean(np.array(values["with_identity"]) - np.array(values["base"][:2]))
    assert smiling["difference"].mean == pytest.approx(expected)
    assert rows["Young"]["with_identity"] is None
    assert smiling["real_photos"]["photos"] == 6 and 0 <= smiling["real_photos"]["rate"] <= 1
    assert rows["Young"]["real_photos"] == {"rate": None, "photos": 0, "with_attribute": 0}
    # 2 attributes x 3 seeds x for/against, and Smiling again with identity x 2 seeds x for/against.
    assert studio.drawn == 16


def test_several_seeds_of_one_person_are_one_observation(
    studio: Studio, protocol: Any, classifier: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    asked = protocol.prompts.model_copy(
        update={"attributes": {"Smiling": ("a smiling person", "a person")}, "identity_seeds": 3}
    )
    plan = protocol.changed(prompts=asked.model_dump(), people=2)
    report = evaluate_prompt(
        studio, plan, classifier=classifier, finder=finder, store=store, cache=face_cache
    )
    row, hits = report.rows[0], np.array(report.people[0]["with_identity"])
    assert len(hits) == 3
    assert row["with_identity"].n == row["difference"].n == 2
    expected = ((hits[0] + hits[2]) / 2 + hits[1]) / 2
    assert row["with_identity"].mean == pytest.approx(expected)


def test_prompt_refuses_a_classifier_that_knows_no_attribute(
    studio: Studio, protocol: Any, classifier: Any, finder: Any, store: Any
) -> None:
    asked = protocol.prompts.model_copy(update={"attributes": {"Bald": ("a", "b")}})
    with pytest.raises(BadInput, match="knows none of Bald"):
        evaluate_prompt(
            studio,
            protocol.changed(prompts=asked.model_dump()),
            classifier=classifier,
            finder=finder,
            store=store,
        )


def test_pose_rows_use_the_same_points(
    studio: Studio, protocol: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    report = evaluate_pose(studio, protocol, finder=finder, reader=finder, store=store, cache=face_cache)
    drawn, real, seen = report.rows
    assert drawn["detection"].mean == 0.0 and drawn["error_percent"] is None and drawn["ratio"] is None
    # The same detector finds its own points again in the turned photos, and far better than shuffled ones.
    assert real["detection"].mean == 1.0 and real["error_percent"].mean < 1.5
    assert real["ratio"] > 4
    assert seen["error_percent"] is None
    asked = np.array([person["asked"] for person in report.people])
    assert asked.shape == (3, 5, 2) and np.ptp(asked, axis=0).max() > 1
    bare = Studio(studio.pipe, steps=2, guidance=2.0, size=64, quiet=True)
    with pytest.raises(BadInput, match="needs an adapter"):
        evaluate_pose(bare, protocol, finder=finder, reader=finder, store=store)


def test_reconstruction_reports_what_the_autoencoder_loses(
    pipe: Any, protocol: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    report = evaluate_reconstruction(pipe, protocol, finder=finder, store=store, cache=face_cache, quiet=True)
    assert [row["photos"] for row in report.rows] == ["all", "lfw_160"]
    assert report.rows[0]["psnr"].n == 4 and 0 < report.rows[0]["psnr"].mean < 60
    assert len({value["file"].split("/")[1] for value in report.people}) == 4, "people take turns"


def test_psnr_and_ssim_by_hand(noise_picture: Image.Image) -> None:
    dark = Image.new("RGB", (32, 32), (100, 100, 100))
    light = Image.new("RGB", (32, 32), (110, 110, 110))
    assert psnr(dark, light) == pytest.approx(20 * np.log10(25.5), abs=1e-6)
    assert psnr(dark, dark) == 99.0 and ssim(noise_picture, noise_picture) == pytest.approx(1.0)
    flipped = noise_picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert ssim(noise_picture, flipped) < 0.1


def test_roundtrip_is_deterministic_and_keeps_order(pipe: Any, noise_picture: Image.Image) -> None:
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    a, b = roundtrip(pipe, [noise_picture, grey])
    c, d = roundtrip(pipe, [grey, noise_picture])
    assert np.abs(np.asarray(a, np.int16) - np.asarray(d, np.int16)).max() <= 1
    assert np.abs(np.asarray(b, np.int16) - np.asarray(c, np.int16)).max() <= 1
