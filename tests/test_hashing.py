"""Fingerprints of folders: what changes them, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from idpersona.hashing import folder_fingerprint

MIB = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "unet" / "small.safetensors").write_bytes(bytes(3 * MIB))
    (tmp_path / "unet" / "large.safetensors").write_bytes(bytes(9 * MIB + 17))
    return tmp_path


@pytest.mark.parametrize("place", [0, 1_234_567, 3 * MIB - 1])
def test_every_byte_of_a_small_file_counts(folder: Path, place: int) -> None:
    before = folder_fingerprint(folder)
    with (folder / "unet" / "small.safetensors").open("r+b") as file:
        file.seek(place)
        file.write(b"1")
    assert folder_fingerprint(folder) != before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_a_changed_part_of_a_large_file_counts(folder: Path, share: float) -> None:
    before = folder_fingerprint(folder)
    with (folder / "unet" / "large.safetensors").open("r+b") as file:
        file.seek(int(share * 9 * MIB))
        file.write(b"1" * (MIB // 4))
    assert folder_fingerprint(folder) != before


def test_only_weights_and_configurations_count(folder: Path) -> None:
    before = folder_fingerprint(folder)
    (folder / "README.md").write_text("notes")
    (folder / "out.png").write_bytes(b"picture")
    assert folder_fingerprint(folder) == before
    (folder / "unet" / "config.json").write_text("{ }")
    assert folder_fingerprint(folder) != before
