"""Fingerprints of files and identities."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idpersona.identity import Identity

_SAMPLES, _BLOCK = 64, 64 * 1024
_WEIGHTS = frozenset((".json", ".safetensors", ".bin", ".txt", ".onnx", ".pt", ".pth", ".ckpt", ".model"))


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(path: Path) -> str:
    """sha256 of a file, or of a folder's ``*.safetensors`` and ``*.json`` in the order of their names."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted([*path.rglob("*.safetensors"), *path.rglob("*.json")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Hash (hex) that tells one folder (or file) of weights from another without reading gigabytes.

    It covers name and size of every file of weights or configuration, and its content: whole up to 4 MiB,
    beyond that 64 blocks of 64 KiB spread evenly over it. What was changed between those blocks alone, a
    single small layer of a large file for instance, it does not see.
    """
    digest = hashlib.sha256()
    one = folder.is_file()
    found = [folder] if one else [p for p in folder.rglob("*") if p.suffix in _WEIGHTS and p.is_file()]
    for path in sorted(found):
        size = path.stat().st_size
        name = path.name if one else path.relative_to(folder).as_posix()
        digest.update(f"{name} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            for block in range(_SAMPLES):
                # One block after the other where the file is short, so that nothing of it is left out.
                file.seek(block * max(_BLOCK, (size - _BLOCK) // (_SAMPLES - 1)))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def identity_sha256(identity: Identity) -> str:
    """sha256 over what an adapter may use of an identity: features, encoders' weights, keypoints."""
    digest = hashlib.sha256()
    for name, feature in sorted(identity.features.items()):
        digest.update(name.encode() + feature.weights_sha256.encode() + feature.values.tobytes())
    if identity.keypoints is not None:
        digest.update(identity.keypoints.tobytes() + repr(identity.image_size).encode())
    return digest.hexdigest()
