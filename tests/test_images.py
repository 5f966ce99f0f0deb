"""Opening photos of every kind, and writing files whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from idpersona.errors import OutputError, PhotoError, UnknownName
from idpersona.images import (
    atomic_output,
    check_output,
    open_photo,
    open_photo_full,
    photo_sha256,
    sample_names,
)

RNG = np.random.default_rng(7)


def _noise(height: int = 48, width: int = 64) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    _noise().save(path)
    return path


def test_sample_by_name():
    assert "astronaut" in sample_names()
    assert open_photo("sample:astronaut").size == (512, 512)
    assert len(photo_sha256("sample:astronaut")) == 64
    with pytest.raises(UnknownName, match="did you mean astronaut"):
        open_photo("sample:astronout")


def test_path_image_and_array_give_the_same_pixels(png: Path):
    by_path = open_photo(png)
    assert by_path.mode == "RGB"
    assert by_path.tobytes() == open_photo(str(png)).tobytes()
    assert by_path.tobytes() == open_photo(np.asarray(by_path)).tobytes()
    with Image.open(png) as lazy:
        assert by_path.tobytes() == open_photo(lazy).tobytes()
    assert photo_sha256(png) == hashlib.sha256(png.read_bytes()).hexdigest()
    assert photo_sha256(by_path) == photo_sha256(np.asarray(by_path)) != photo_sha256(png)
    assert photo_sha256(by_path.transpose(Image.Transpose.ROTATE_90)) != photo_sha256(by_path)


def test_the_result_is_a_copy():
    array = np.zeros((40, 40, 3), np.uint8)
    opened = open_photo(array)
    array[:] = 255
    assert not np.asarray(opened).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, this is no picture at all" * 9, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=message):
        open_photo(path)


def test_missing_folder_pipe_and_address(tmp_path: Path):
    with pytest.raises(PhotoError, match="no such photo"):
        open_photo(tmp_path / "none.jpg")
    with pytest.raises(PhotoError, match="is a folder"):
        open_photo(tmp_path)
    with pytest.raises(PhotoError, match="download the photo"):
        open_photo("https://example.org/a.jpg")
    with pytest.raises(PhotoError, match="not a path"):
        open_photo("")
    with pytest.raises(PhotoError, match="not a path"):
        open_photo("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PhotoError, match="not a regular file"):
        open_photo(tmp_path / "pipe")
    with pytest.raises(PhotoError):
        open_photo("x" * 5000)
    with pytest.raises(PhotoError, match="not int"):
        open_photo(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo.{suffix}"
    _noise(200, 200).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PhotoError):
        open_photo(path)


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )
    with pytest.raises(PhotoError, match="more"):
        open_photo(path)
    with pytest.raises(PhotoError, match=r"100x100 pixels, more than the 9,999 allowed"):
        open_photo(_noise(100, 100), max_pixels=9_999)


def test_tiny_photos_are_refused():
    with pytest.raises(PhotoError, match="too small"):
        open_photo(_noise(31, 100))
    assert open_photo(_noise(31, 100), min_side=31).size == (100, 31)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
    ],
)
def test_arrays_must_be_rgb_uint8(array: np.ndarray):
    with pytest.raises(PhotoError):
        open_photo(array)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read_and_said(tmp_path: Path, suffix: str):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, lossless=True)
    opened = open_photo_full(path)
    assert opened.image.getpixel((20, 20)) == (255, 0, 0)
    assert any("3 frames" in note for note in opened.notes)


def test_cmyk(tmp_path: Path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(path, quality=95)
    red, green, blue = open_photo(path).getpixel((20, 20))  # type: ignore[misc]
    assert red > 240
    assert green < 15
    assert blue < 15


def test_sixteen_bit_is_scaled_not_clipped(tmp_path: Path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (40, 1))
    for suffix in ("png", "tiff"):
        path = tmp_path / f"deep.{suffix}"
        Image.fromarray(ramp).save(path)
        grey = np.asarray(open_photo(path))[0, :, 0].astype(int)
        assert np.abs(grey - np.linspace(0, 255, 64)).max() <= 1
    floats = Image.fromarray((ramp / 65535).astype(np.float32))
    assert np.asarray(open_photo(floats))[0, -1, 0] == 255
    with pytest.raises(PhotoError, match="not finite"):
        open_photo(Image.fromarray(np.full((40, 40), np.nan, np.float32)))


def test_grey_bilevel_and_palette_with_alpha(tmp_path: Path):
    assert open_photo(Image.new("L", (40, 40), 77)).getpixel((0, 0)) == (77, 77, 77)
    assert open_photo(Image.new("1", (40, 40), 1)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.paste(1, (0, 0, 20, 40))
    path = tmp_path / "palette.png"
    palette.save(path, transparency=0)
    opened = open_photo_full(path)
    assert opened.image.getpixel((30, 5)) == (255, 255, 255)
    assert opened.image.getpixel((5, 5)) == (200, 0, 0)
    assert any("transparent" in note for note in opened.notes)
    half = open_photo(Image.new("RGBA", (40, 40), (0, 0, 0, 128)))
    assert abs(half.getpixel((0, 0))[0] - 127) <= 1  # type: ignore[index]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int):
    upright = Image.new("RGB", (60, 40))
    upright.paste((255, 255, 255), (0, 0, 30, 20))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    assert open_photo(path).tobytes() == upright.tobytes()
    with Image.open(path) as lazy:
        assert open_photo(lazy).tobytes() == upright.tobytes()


def test_damaged_exif_costs_no_photo(tmp_path: Path):
    path = tmp_path / "odd.jpg"
    _noise().save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert open_photo(path).size == (64, 48)


def test_tiff_of_an_unknown_compression(tmp_path: Path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    buffer = io.BytesIO()
    _noise().save(buffer, "TIFF", tiffinfo=tags)
    data = bytearray(buffer.getvalue())
    place = data.find(struct.pack("<HHIH", 259, 3, 1, 1))
    assert place > 0
    data[place + 8 : place + 10] = struct.pack("<H", 60_000)
    path = tmp_path / "odd.tiff"
    path.write_bytes(bytes(data))
    with pytest.raises(PhotoError):
        open_photo(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_mutated_files_raise_only_photo_errors(tmp_path: Path, kind: str):
    buffer = io.BytesIO()
    _noise().save(buffer, kind)
    clean = buffer.getvalue()
    path = tmp_path / "mutant"
    rng = np.random.default_rng(len(clean))
    opened = 0
    for _ in range(60):
        data = bytearray(clean)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(
            bytes(data[: rng.integers(len(data) // 2, len(data) + 1)] if rng.random() < 0.3 else data)
        )
        try:
            assert open_photo(path).mode == "RGB"
            opened += 1
        except PhotoError as error:
            assert "\n" not in str(error)
    assert opened < 60


def test_check_output(tmp_path: Path):
    target = tmp_path / "out.png"
    assert check_output(target) == target
    assert not target.exists()
    for bad in (tmp_path, tmp_path / "none" / "out.png", "", "a\0b", str(tmp_path) + "/new/", "x" * 300):
        with pytest.raises(OutputError):
            check_output(bad)
    target.write_text("old")
    with pytest.raises(OutputError, match="--force"):
        check_output(target)
    assert check_output(target, force=True) == target


def test_check_output_in_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The superuser may write anywhere: the system's answer is given for it.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="not writable"):
        check_output(tmp_path / "out.png")


def test_atomic_output_writes_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "out.png"
    with atomic_output(target) as part:
        assert part.suffix == ".png"
        assert part.parent == tmp_path
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(KeyError), atomic_output(target, force=True) as part:
        part.write_text("half")
        raise KeyError("stop")
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_atomic_output_does_not_overwrite_what_came_meanwhile(tmp_path: Path):
    target = tmp_path / "out.png"
    with pytest.raises(OutputError), atomic_output(target) as part:
        part.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disc_is_one_clear_error(tmp_path: Path):
    with pytest.raises(OutputError, match="No space left"), atomic_output(tmp_path / "out.png"):
        raise OSError(28, "No space left on device")
