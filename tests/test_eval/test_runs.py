"""The four evaluations end to end, on tiny real models and one public-domain face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval import evaluate_identity, evaluate_pose, evaluate_prompt, evaluate_reconstruction
from idpersona.eval.autoencoder import psnr, roundtrip, ssim
from idpersona.eval.generation import Studio


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
