"""AnyMaker from photos of objects to pictures: DINOv2, MAE and the segmentation model, all of them tiny."""

from __future__ import annotations

import json
import os
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona import Identity
from idpersona.provenance import read_settings

OBJECTS = (
    Path(os.environ.get("IDPERSONA_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "objects.tar"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> dict[str, list[Path]]:
    """Two photos each of three objects."""
    if not OBJECTS.is_file():
        pytest.skip(f"photos of objects are not at {OBJECTS}")
    folder = tmp_path_factory.mktemp("objects")
    found: dict[str, list[Path]] = {}
    with tarfile.open(OBJECTS) as archive:
        for member in archive:
            name = Path(member.name).parent.name
            if member.isfile() and member.name.endswith(".jpg") and len(found.get(name, ())) < 2:
                if name not in found and len(found) == 3:
                    continue
                archive.extract(member, folder, filter="data")
                found.setdefault(name, []).append(folder / member.name)
    return found


@pytest.fixture
def weights(tmp_path_factory, monkeypatch) -> None:
    """Tiny models in the places where the published ones are looked for."""
    from idpersona.encoders import release_encoders
    from idpersona.encoders.segmenter import load_segmenter
    from idpersona.testing.objects import tiny_object_encoders, tiny_segmenter

    folder = tmp_path_factory.mktemp("weights")
    for name, model in (*tiny_object_encoders().items(), ("mask2former", tiny_segmenter())):
        model.save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text("{}")
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(folder))
    release_encoders()
    load_segmenter.cache_clear()
    yield
    release_encoders()
    load_segmenter.cache_clear()


@pytest.fixture
def anymaker(tmp_path) -> Path:
    """A tiny AnyMaker for those encoders and the tiny base."""
    import dataclasses

    from idpersona.testing import tiny_components
    from idpersona.testing.anymaker import tiny_anymaker

    adapter = tiny_anymaker(tiny_components("sd15")["unet"])
    adapter.config = dataclasses.replace(adapter.config, words=("object",))
    return adapter.save_pretrained(tmp_path / "anymaker")


def test_objects_from_photo_to_picture(run, tiny, photos, weights, anymaker, tmp_path):
    base = ("generate", "--base", tiny / "base", "--adapter", anymaker, "--steps", 2, "--seed", 3)
    base += ("--device", "cpu", "--prompt", "a photo of an object")
    pictures = {}
    for name, (first, _) in photos.items():
        out = tmp_path / f"{name}.png"
        run(*base, "--photo", first, "--mask", "segment", "-o", out).done()
        pictures[name] = np.asarray(Image.open(out))
        assert read_settings(out)["identity"]["masks"] == ["segment"]
    names = list(pictures)
    for one, other in pairwise(names):
        assert np.abs(pictures[one].astype(int) - pictures[other]).max() > 8
    again = tmp_path / "again.png"
    run("generate", "--from", tmp_path / f"{names[0]}.png", "-o", again).done()
    assert np.array_equal(np.asarray(Image.open(again)), pictures[names[0]])


def test_objects_by_way_of_a_file(run, tiny, photos, weights, anymaker, tmp_path):
    first, second = next(iter(photos.values()))
    words = ("--for", anymaker, "--base", tiny / "base", "--subject", "object", "--mask", "none", "--json")
    file = tmp_path / "object.safetensors"
    told = json.loads(run("identify", first, second, *words, "-o", file).done().out)
    thing = Identity.load(file)
    assert thing.kind == "object"
    assert {name: f.tokens for name, f in thing.features.items()} == {"dinov2": 257, "mae": 10}
    assert told
    out = tmp_path / "a.png"
    base = ("generate", "--base", tiny / "base", "--adapter", anymaker, "--steps", 1, "--identity", file)
    run(*base, "--device", "cpu", "--prompt", "an object on a table", "-o", out).done()
    unnamed = run(*base, "--prompt", "a table", "-o", tmp_path / "b.png")
    assert unnamed.status == 2 and "does not name the object" in unnamed.err
    assert not (tmp_path / "b.png").exists()
    run(*base, "--set", "word=table", "--prompt", "a table", "-o", tmp_path / "c.png").done()


def test_another_mask_for_a_picture_that_is_repeated(run, tiny, photos, weights, anymaker, tmp_path):
    first = next(iter(photos.values()))[0]
    base = ("generate", "--base", tiny / "base", "--adapter", anymaker, "--steps", 1, "--prompt", "an object")
    run(*base, "--device", "cpu", "--photo", first, "--mask", "none", "-o", tmp_path / "a.png").done()
    Image.new("L", Image.open(first).size, 255).save(tmp_path / "mask.png")
    repeat = ("generate", "--from", tmp_path / "a.png", "--mask", tmp_path / "mask.png")
    run(*repeat, "-o", tmp_path / "b.png").done()
    assert read_settings(tmp_path / "b.png")["identity"]["masks"][0]["path"] == "mask.png"
    run("generate", "--from", tmp_path / "b.png", "-o", tmp_path / "c.png").done()
    drawn = [np.asarray(Image.open(tmp_path / name)) for name in ("b.png", "c.png")]
    assert np.array_equal(*drawn)
    both = ("--photo", first, first, "--mask", tmp_path / "mask.png")
    run(*base, *both, "-o", tmp_path / "d.png").refused("one mask for 2 photos")


def test_commercial_use_counts_what_finds_the_mask(run, photos, tmp_path):
    words = ("generate", "--base", "sdxl", "--adapter", "ip-adapter", "--prompt", "a cup", "--commercial")
    first = next(iter(photos.values()))[0]
    run(*words, "--photo", first, "--mask", "segment", "-o", tmp_path / "a.png").refused("mask2former")
    words = ("identify", first, "--encoder", "clip-h", "--commercial", "-o", tmp_path / "a.safetensors")
    run(*words).refused("dlib")


def test_without_a_mask_an_object_has_a_background(run, tiny, photos, weights, anymaker, tmp_path):
    first = next(iter(photos.values()))[0]
    base = ("generate", "--base", tiny / "base", "--adapter", anymaker, "--prompt", "an object")
    run(*base, "--photo", first, "-o", tmp_path / "a.png").refused("no transparency", "--mask")
