"""``dataset cache``: latents of framed photos, made once, kept where they are whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idpersona.images import open_photo
from idpersona.pipelines import load_base
from idpersona.pipelines.inversion.photos import encode_pictures, fit_photo
from idpersona.testing.command import Run
from idpersona.training.data.builder import latents
from idpersona.training.data.builder.latents import crop_around, first_stage
from idpersona.training.data.builder.table import read_pairs, read_photos
from idpersona.training.data.builder.vectors import read_rows
from idpersona.training.data.framing import frame


@pytest.fixture(scope="module")
def built(small_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve photos."""
    from idpersona.cli.main import main

    place = tmp_path_factory.mktemp("cached") / "set"
    words = ["dataset", "build", str(small_photos), "-o", str(place), "--caption", "any", "--min-side", "200"]
    assert main(words) == 0
    return place


def test_latents_of_the_embedded_model(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "ROWS", 5)
    made = json.loads(run("dataset", "cache", built, "--base", "mini", "--json").done().out)
    assert (made["photos"], made["files"]) == (12, 3)
    photos = read_photos(built)
    assert {pair.reference for pair in read_pairs(built)} <= {photo.file_name for photo in photos}
    found = read_rows(built, made["pattern"], [photo.sha256 for photo in photos])
    assert found["latents"].shape == (12, 8, 16, 16) and found["latents"].dtype == np.float16
    picture, points = frame(open_photo(built / photos[7].file_name), np.array(photos[7].landmarks), 128)
    wanted = encode_pictures(load_base("mini"), [picture])[0].numpy()
    assert np.abs(found["latents"][7].astype(np.float32) - wanted).max() < 0.01
    assert np.allclose(found["keypoints"][7], points, atol=1e-3)
    run("dataset", "check", built).done()

    paths = sorted(built.glob(made["pattern"]))
    assert len(paths) == 3 and made["weights_sha256"][:12] in paths[0].name
    before = [path.stat().st_mtime_ns for path in paths]
    content = [path.read_bytes() for path in paths]
    paths[1].write_bytes(content[1][:-10])
    paths[2].unlink()
    again = run("dataset", "cache", built, "--base", "mini").done()
    assert "note: 5 photos were finished before and are kept" in again.err
    assert [path.read_bytes() for path in paths] == content
    assert paths[0].stat().st_mtime_ns == before[0]
    paths[1].write_bytes(content[0])
    assert run("dataset", "check", built).status == 1


def test_the_middle_for_bases_of_other_sizes(run: Run, built: Path, tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from idpersona.testing import tiny_components

    pipe = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    pipe.save_pretrained(tmp_path / "base")
    made = json.loads(run("dataset", "cache", built, "--base", tmp_path / "base", "--json").done().out)
    stage = first_stage(str(tmp_path / "base"))
    photos = read_photos(built)
    found = read_rows(built, made["pattern"], [photo.sha256 for photo in photos])
    side = stage.size[0]
    assert f"middle-{side}x{side}" in made["pattern"] and not stage.face
    # These photos are square: nothing is cut off.
    assert np.array_equal(found["crops"], np.tile(np.array([0, 0, 230, 230], np.float32), (12, 1)))
    picture = fit_photo(built / photos[0].file_name, (side, side))
    wanted = encode_pictures(pipe, [picture])[0].numpy()
    assert np.abs(found["latents"][0].astype(np.float32) - wanted).max() < 0.02
    assert torch.isfinite(stage.encode([Image.new("RGB", (side, side))])).all()


@pytest.mark.parametrize(
    ("photo", "face", "crop"),
    [
        ((200, 100), (80, 10, 120, 50), (50, 0, 100, 100)),  # in the middle: the middle
        ((200, 100), (10, 10, 50, 50), (10, 0, 100, 100)),  # to the left: moved as far as it takes
        ((200, 100), (150, 10, 200, 50), (100, 0, 100, 100)),  # at the border: no further
        ((200, 100), (20, 10, 180, 90), (50, 0, 100, 100)),  # wider than what can be taken: its middle
        ((100, 300), (10, 0, 60, 60), (0, 0, 100, 100)),
        ((64, 64), (0, 0, 64, 64), (0, 0, 64, 64)),
    ],
)
def test_the_crop_holds_the_face(photo, face, crop) -> None:
    assert crop_around(photo, face, (512, 512)) == crop


def test_what_cannot_be_cached(run: Run, built: Path, tmp_path: Path) -> None:
    run("dataset", "cache", tmp_path).refused("has no metadata.jsonl")
    run("dataset", "cache", built, "--batch", 0).refused("--batch")
    (tmp_path / "empty").mkdir()
    run("dataset", "cache", built, "--base", tmp_path / "empty").refused("model_index.json")
