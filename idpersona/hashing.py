"""Fingerprints of files and identities."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idpersona.identity import Identity


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_sha256(identity: Identity) -> str:
    """sha256 over what an adapter may use of an identity: features, encoders' weights, keypoints."""
    digest = hashlib.sha256()
    for name, feature in sorted(identity.features.items()):
        digest.update(name.encode() + feature.weights_sha256.encode() + feature.values.tobytes())
    if identity.keypoints is not None:
        digest.update(identity.keypoints.tobytes() + repr(identity.image_size).encode())
    return digest.hexdigest()
