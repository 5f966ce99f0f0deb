"""Every photo that cannot be used, given to every command that takes one: one line, nothing written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.images import open_photo

SAYS = {
    "missing": "no such photo",
    "empty": "is empty",
    "text": "not an image",
    "cut": "damaged or cut off",
    "bomb": "pixels",
    "tiny": "too small",
    "noface": "no face",
    "folder": "bad.png",
}
COMMANDS = ("identify", "generate --photo", "generate --pose", "compare", "people add")


@pytest.fixture(scope="module")
def face() -> Image.Image:
    return open_photo("sample:astronaut").crop((130, 20, 330, 220))


def spoil(path: Path, bad: str, face: Image.Image) -> None:
    if bad == "empty":
        path.write_bytes(b"")
    if bad == "text":
        path.write_text("not a picture")
    if bad == "cut":
        face.save(path)
        path.write_bytes(path.read_bytes()[:3000])
    if bad == "bomb":
        # Only the header: what is refused is not decoded.
        head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
        body = b"IDAT" + zlib.compress(bytes(1000))
        chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body)]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    if bad == "tiny":
        face.resize((20, 20)).save(path)
    if bad == "noface":
        Image.fromarray(np.full((100, 100, 3), 128, np.uint8)).save(path)
    if bad == "folder":
        path.mkdir()


@pytest.mark.parametrize("bad", SAYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_refused(run, draw, face, tmp_path, monkeypatch, command, bad):
    photo, place = tmp_path / "in" / "bad.png", tmp_path / "out"
    photo.parent.mkdir()
    place.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place))  # where the registry of people would lie
    spoil(photo, bad, face)
    if command == "identify":
        out = run("identify", photo, "-o", place / "me.safetensors")
    elif command == "generate --photo":
        out = draw("--photo", photo, "-o", place / "a.png", identity=False)
    elif command == "generate --pose":
        out = draw("--pose", photo, "-o", place / "a.png")
    elif command == "compare":
        out = run("compare", "sample:astronaut", photo)
    else:
        out = run("people", "add", "Bo", photo)
    out.refused(SAYS[bad])
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_several_faces_are_said(run, draw, face, tmp_path, command):
    two = Image.new("RGB", (520, 260), (120, 120, 120))
    two.paste(face.resize((160, 160)), (20, 60))
    two.paste(face.resize((250, 250)), (260, 5))
    two.save(tmp_path / "two.png")
    if command == "identify":
        out = run("identify", tmp_path / "two.png", "-o", tmp_path / "me.safetensors")
    elif command == "generate --photo":
        out = draw("--photo", tmp_path / "two.png", "--steps", 1, "-o", tmp_path / "a.png", identity=False)
    elif command == "generate --pose":
        out = draw("--pose", tmp_path / "two.png", "--steps", 1, "-o", tmp_path / "a.png")
    elif command == "compare":
        out = run("compare", "sample:astronaut", tmp_path / "two.png")
    else:
        out = run("people", "add", "Bo", tmp_path / "two.png")
    said = out.done().err
    assert "2 faces, the largest (face 0) was taken" in said and "face 1: " in said


def test_a_damaged_tiff_prints_one_line_in_a_process_of_its_own(tmp_path, face):
    """Without a test runner's log handlers Python prints what Pillow logs."""
    path = tmp_path / "bad.tif"
    face.save(path)
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        place = directory + 2 + 12 * entry
        if struct.unpack_from("<H", data, place)[0] == 277:  # samples per pixel
            struct.pack_into("<H", data, place + 8, 122)
    path.write_bytes(data)
    words = [sys.executable, "-m", "idpersona", "identify", str(path), "-o", str(tmp_path / "me.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "bad.tif" in done.stderr
