"""Fingerprints of files and identities."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idpersona.identity import Identity

_MIB = 1024 * 1024


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Hash (hex) that tells one folder of weights from another without reading gigabytes.

    It covers every file's name, its size, and its first and last MiB: retrained weights differ there.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            digest.update(file.read(_MIB))
            file.seek(max(size - _MIB, 0))
            digest.update(file.read(_MIB))
    return digest.hexdigest()


def identity_sha256(identity: Identity) -> str:
    """sha256 over what an adapter may use of an identity: features, encoders' weights, keypoints."""
    digest = hashlib.sha256()
    for name, feature in sorted(identity.features.items()):
        digest.update(name.encode() + feature.weights_sha256.encode() + feature.values.tobytes())
    if identity.keypoints is not None:
        digest.update(identity.keypoints.tobytes() + repr(identity.image_size).encode())
    return digest.hexdigest()
