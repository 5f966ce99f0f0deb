"""Photos in and files out: every picture is opened here, every result is written through here.

A photo comes from a stranger, so opening one is a boundary: only raster formats are decoded (never formats
that start a helper program, such as EPS), pixels are counted before they are decoded, and whatever a decoder
raises becomes one :class:`~idpersona.errors.PhotoError`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from idpersona.errors import OutputError, PhotoError, UnknownName
from idpersona.silence import silent_stderr

Photo = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, ``sample:NAME``, a PIL image, or a ``uint8`` RGB array ``[height, width, 3]``."""

FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "TGA",
)
MAX_FILE_BYTES = 512 * 1024 * 1024
SAMPLE_PREFIX = "sample:"
_TRANSPARENT_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}


@dataclass(frozen=True)
class OpenedPhoto:
    """A decoded photo: ``image`` is RGB; ``notes`` say what was lost on the way (frames, transparency).

    ``alpha`` is float32 [height, width] in 0..1 where the photo has transparent parts, else None.
    """

    image: Image.Image
    name: str
    sha256: str
    notes: tuple[str, ...] = ()
    alpha: np.ndarray | None = None


def photo_name(photo: Photo) -> str:
    """Short name of a photo for messages: its path, or what it is."""
    if isinstance(photo, np.ndarray):
        return f"array of shape {tuple(photo.shape)}"
    if isinstance(photo, Image.Image):
        filename = getattr(photo, "filename", "")
        return str(filename) if filename else f"image of {photo.width}x{photo.height} px"
    return os.fspath(photo)


def sample_names() -> tuple[str, ...]:
    """Names that ``sample:NAME`` accepts here, sorted."""
    return tuple(sorted(_samples()))


def _samples() -> dict[str, Path]:
    from importlib.resources import as_file, files
    from importlib.util import find_spec

    found: dict[str, Path] = {}
    with as_file(files("idpersona.assets")) as assets:
        for path in sorted((assets / "samples").glob("*")):
            if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}:
                found[path.stem] = path
    # The file is found without importing scikit-image, which costs a second.
    spec = find_spec("skimage")
    if spec is not None and spec.origin is not None:
        astronaut = Path(spec.origin).parent / "data" / "astronaut.png"
        if astronaut.is_file():
            found.setdefault("astronaut", astronaut)
    return found


def _resolve(photo: str | os.PathLike[str]) -> Path:
    text = os.fspath(photo)
    if text.startswith(SAMPLE_PREFIX):
        samples = _samples()
        name = text[len(SAMPLE_PREFIX) :]
        if name not in samples:
            raise UnknownName("sample", name, sorted(samples))
        return samples[name]
    if "://" in text:
        raise PhotoError(f"{text} is an address: download the photo first and give its path")
    if not text or "\0" in text:
        raise PhotoError(f"{text!r} is not a path")
    return Path(text).expanduser()


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise PhotoError(f"{path} is a folder: give the photos in it one by one")
        if not path.exists():
            raise PhotoError(f"no such photo: {path}")
        if not path.is_file():  # a pipe or a device would block or never end
            raise PhotoError(f"{path} is not a regular file")
        size = path.stat().st_size
        if size == 0:
            raise PhotoError(f"{path} is empty")
        if size > MAX_FILE_BYTES:
            raise PhotoError(f"{path} has {size >> 20} MiB, more than the {MAX_FILE_BYTES >> 20} MiB allowed")
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(f"cannot read {path}: {error.strerror or error}") from error


def _check_size(size: tuple[int, int], name: str, min_side: int, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PhotoError(
            f"{name} has {width}x{height} pixels, more than the {max_pixels:,} allowed: make it smaller first"
        )
    if min(width, height) < min_side:
        raise PhotoError(f"{name} has {width}x{height} pixels: too small, each side needs {min_side} or more")


def _to_rgb(image: Image.Image, notes: list[str]) -> tuple[Image.Image, np.ndarray | None]:
    """The picture in RGB, and its transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these modes to 0..255 on conversion, which turns 16-bit photos white.
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("pixels are not finite")
        top = float(values.max(initial=0.0))
        if image.mode == "F":
            scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 255.0 / 65535.0
        else:
            scale = 255.0 / 65535.0 if image.mode != "I" or top > 255 else 1.0
        image = Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = None
        if rgba.getextrema()[3][0] < 255:  # type: ignore[index]
            notes.append("transparent parts were filled with white")
            alpha = np.asarray(rgba.getchannel("A"), dtype=np.float32) / 255
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB"), alpha
    return image.convert("RGB"), None


def _decode(
    image: Image.Image, name: str, min_side: int, max_pixels: int
) -> tuple[Image.Image, list[str], np.ndarray | None]:
    notes: list[str] = []
    _check_size(image.size, name, min_side, max_pixels)
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":
        notes.append(f"has {frames} frames, only the first was read")
        image.seek(0)
    # libtiff reports damage by printing, beside the error that it returns.
    with silent_stderr() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged tags must not cost a sound picture
        notes.append("has damaged EXIF data, its orientation tag was ignored")
        upright = image
    rgb, alpha = _to_rgb(upright, notes)
    # A fresh copy carries no metadata, no file handle and no lazy state.
    return Image.fromarray(np.array(rgb, dtype=np.uint8)), notes, alpha


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow logs damage as an error beside raising it; without a handler Python prints that."""
    logger = logging.getLogger("PIL")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def open_photo_full(photo: Photo, *, min_side: int = 32, max_pixels: int = 64_000_000) -> OpenedPhoto:
    """As :func:`open_photo`, with the photo's name, sha256 and notes beside the picture."""
    if not isinstance(photo, str | os.PathLike | Image.Image | np.ndarray):
        raise PhotoError(f"a photo is a path, a PIL image or a uint8 array, not {type(photo).__name__}")
    name = photo_name(photo)
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise PhotoError(
                f"an array photo must be RGB uint8 [height, width, 3], got {photo.dtype} {list(photo.shape)}"
            )
        _check_size((photo.shape[1], photo.shape[0]), name, min_side, max_pixels)
        image = Image.fromarray(np.array(photo, order="C"))
        return OpenedPhoto(image, name, _pixels_sha256(image))
    data: bytes | None = None
    with warnings.catch_warnings():
        # Size limits and broken metadata are judged here; Pillow's own warnings would only add noise.
        warnings.simplefilter("ignore")
        try:
            if isinstance(photo, Image.Image):
                image, notes, alpha = _decode(photo, name, min_side, max_pixels)
            else:
                data = _read_bytes(_resolve(photo))
                Image.init()
                allowed = [f for f in FORMATS if f in Image.OPEN]
                with _quiet_pillow(), Image.open(io.BytesIO(data), formats=allowed) as source:
                    image, notes, alpha = _decode(source, name, min_side, max_pixels)
        except (PhotoError, UnknownName):
            raise
        except Image.UnidentifiedImageError as error:
            raise PhotoError(f"{name} is not an image of a known kind ({', '.join(FORMATS)})") from error
        except Image.DecompressionBombError as error:
            raise PhotoError(f"{name} has more pixels than the {max_pixels:,} allowed") from error
        except Exception as error:  # a decoder fed with hostile bytes may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PhotoError(f"{name} is damaged or cut off: {reason[:160]}") from error
    digest = hashlib.sha256(data).hexdigest() if data is not None else _pixels_sha256(image)
    return OpenedPhoto(image, name, digest, tuple(notes), alpha)


def open_photo(photo: Photo, *, min_side: int = 32, max_pixels: int = 64_000_000) -> Image.Image:
    """Open a photo as a fully decoded RGB image, rotated upright by its EXIF tag.

    Grey, 16-bit, palette, CMYK and transparent pictures are converted (transparency onto white); of an
    animation the first frame is taken.

    Args:
        photo: path, ``sample:NAME``, PIL image or ``uint8`` array ``[height, width, 3]`` in RGB.
        min_side: smallest width and height in pixels.
        max_pixels: largest ``width * height``; checked before anything is decoded.

    Raises:
        PhotoError: missing, empty, not an image, damaged, too large or too small.
        UnknownName: no sample of that name.
    """
    return open_photo_full(photo, min_side=min_side, max_pixels=max_pixels).image


def _pixels_sha256(image: Image.Image) -> str:
    digest = hashlib.sha256(f"RGB {image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def photo_sha256(photo: Photo) -> str:
    """Sha256 (hex) of a photo: of the file's bytes, or of size and pixels for arrays and PIL images."""
    if isinstance(photo, str | os.PathLike):
        return hashlib.sha256(_read_bytes(_resolve(photo))).hexdigest()
    return open_photo_full(photo, min_side=1).sha256


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Say early whether ``path`` can be written; writes nothing.

    Raises:
        OutputError: folder missing or not writable, ``path`` is a folder, or it exists and not ``force``.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise OutputError(f"{text!r} is not a file name to write to")
    target = Path(text).expanduser()
    try:
        if target.is_dir() or text.endswith(("/", os.sep)):
            raise OutputError(f"{target} is a folder: give a file name")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {target}: the folder {target.parent} does not exist")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {target}: the folder {target.parent} is not writable")
        if os.path.lexists(target):
            if not force:
                raise OutputError(f"{target} exists: choose another name or use --force (force=True)")
            if not target.is_file():
                raise OutputError(f"{target} is not a regular file and is not overwritten")
        if len(os.fsencode(target.name)) > 255:
            raise OutputError(f"cannot write {target.name[:40]}…: the name is too long")
    except OSError as error:
        raise OutputError(f"cannot write {text[:200]}: {error.strerror or error}") from error
    return target


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a path in the same folder with the same suffix; when the body ends without an exception it is
    renamed to ``path``, otherwise it is removed and ``path`` stays as it was.

    Raises:
        OutputError: as :func:`check_output`, or the disc is full or read-only.
    """
    target = check_output(path, force=force)
    part = target.parent / f".idpersona-{secrets.token_hex(6)}{target.suffix[:32]}"
    try:
        yield part
        if not force:
            check_output(target)
        part.replace(target)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) == part:
            raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def to_array(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB ``uint8`` array ``[height, width, 3]`` of an image, contiguous and writable."""
    return np.array(image.convert("RGB"), dtype=np.uint8)
