"""Settings and the mark inside PNG files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from idpersona.errors import BadInput, OutputError, PhotoError
from idpersona.provenance import SOURCE_TYPE, is_marked, read_settings, write_png, write_pngs


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def with_chunk(path, picture, **chunks):
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key, value)
    picture.save(path, pnginfo=info)
    return path


def test_round_trip_keeps_pixels_and_settings(tmp_path, picture):
    settings = {"prompt": 'une photo d\'élève 写真 "quoted"', "seed": 2**63 - 1, "scale": 0.1 + 0.2}
    write_png(picture, tmp_path / "a.png", settings)
    read = read_settings(tmp_path / "a.png")
    assert {key: read[key] for key in settings} == settings
    assert read["ai_generated"] is True
    assert read["software"].startswith("idpersona ")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(picture))


def test_standard_places_carry_the_mark(tmp_path, picture):
    write_png(picture, tmp_path / "a.png", {})
    info = Image.open(tmp_path / "a.png").info
    assert info["Comment"] == "AI generated"
    assert SOURCE_TYPE in info["XML:com.adobe.xmp"]
    assert is_marked(tmp_path / "a.png")
    picture.save(tmp_path / "plain.png")
    assert not is_marked(tmp_path / "plain.png")


def test_existing_file_is_kept_without_force(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        write_png(picture, tmp_path / "a.png", {})
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    write_png(picture, tmp_path / "a.png", {}, force=True)
    assert is_marked(tmp_path / "a.png")


def test_nothing_is_left_when_settings_cannot_be_written(tmp_path, picture):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_png(picture, tmp_path / "a.png", {"scale": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_several_pictures_are_written_all_or_none(tmp_path, picture):
    good, bad = {"seed": 1}, {"scale": float("nan")}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_pngs([(picture, tmp_path / "a.png", good), (picture, tmp_path / "b.png", bad)])
    assert list(tmp_path.iterdir()) == []
    write_pngs([(picture, tmp_path / "a.png", good), (picture, tmp_path / "b.png", good)])
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_settings_of_a_huge_picture_are_refused_without_a_warning(tmp_path, recwarn):
    Image.new("1", (10_000, 9_500)).save(tmp_path / "huge.png")
    with pytest.raises(PhotoError, match="readable PNG"):
        read_settings(tmp_path / "huge.png")
    assert not recwarn


@pytest.mark.parametrize(
    ("chunks", "error", "says"),
    [
        ({}, PhotoError, "carries no settings"),
        ({"parameters": "a cat, Steps: 20, Sampler: Euler"}, BadInput, "not written by idpersona"),
        ({"parameters": "[" * 100_000}, BadInput, "not written by idpersona"),
        ({"parameters": json.dumps({"prompt": "x"})}, BadInput, "not written by idpersona"),
        ({"parameters": json.dumps({"ai_generated": True})}, BadInput, "no format version"),
        ({"parameters": json.dumps({"ai_generated": True, "format": 99})}, BadInput, "update idpersona"),
    ],
)
def test_foreign_settings_are_refused(tmp_path, picture, chunks, error, says):
    with pytest.raises(error, match=says):
        read_settings(with_chunk(tmp_path / "a.png", picture, **chunks))


def test_files_that_are_no_png_are_refused(tmp_path, picture):
    picture.save(tmp_path / "a.jpg")
    write_png(picture, tmp_path / "ok.png", {})
    (tmp_path / "cut.png").write_bytes((tmp_path / "ok.png").read_bytes()[:200])
    for name in ("a.jpg", "cut.png", "absent.png"):
        with pytest.raises(PhotoError):
            read_settings(tmp_path / name)
