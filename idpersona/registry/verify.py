"""Checking weights against their hashes and sizes, without loading them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from idpersona.errors import MissingWeights
from idpersona.hashing import file_sha256
from idpersona.registry.hub import hub_client
from idpersona.registry.locate import locate
from idpersona.registry.weight import Weight


@dataclass(frozen=True)
class FileCheck:
    """Result for one file: ``ok``, and what was compared (``sha256``, ``git-sha1``) with which source."""

    path: str
    ok: bool
    size: int
    sha256: str
    against: str
    reason: str = ""


def git_sha1_of(path: Path) -> str:
    """Hash by which the hub knows a small file: sha1 of git's blob header and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


def _stated_by_cache(path: Path) -> str | None:
    """Hash that the hub stated when ``path`` was fetched: the name of the blob its cache link points to."""
    blob = path.resolve().name
    return blob if path.is_symlink() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob) else None


def _stated_by_hub(weight: Weight) -> dict[str, str]:
    """Hashes that the hub states now, by path. Needs the network.

    Raises:
        MissingWeights: the hub cannot be reached, so that nothing is there to compare with.
    """
    from huggingface_hub import HfApi

    repository, folder = weight.hub
    prefix = f"{folder}/" if folder else ""
    with hub_client(f"'{weight.name}' cannot be verified: no hash is pinned and the hub is out of reach"):
        info = HfApi().model_info(repository, files_metadata=True)
    stated = {}
    for sibling in info.siblings or ():
        sha = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if sha and sibling.rfilename.startswith(prefix):
            stated[sibling.rfilename[len(prefix) :]] = sha
    return stated


def check_file(
    folder: Path, relative: str, sha256: str | None, size: int | None, stated: str | None
) -> FileCheck:
    """Compare one file with its pin, or with the hash the hub stated when there is no pin."""
    path = folder / relative
    actual_size = path.stat().st_size
    actual = file_sha256(path)
    wanted, against = (sha256, "pinned sha256") if sha256 else (stated, "hash stated by the hub")
    if wanted is None:
        return FileCheck(relative, False, actual_size, actual, "nothing", "no hash to compare with")
    if size is not None and size != actual_size:
        return FileCheck(
            relative, False, actual_size, actual, against, f"{actual_size} bytes instead of {size}"
        )
    found = actual if len(wanted) == 64 else git_sha1_of(path)
    reason = "" if found == wanted else f"hash {found[:12]}… instead of {wanted[:12]}…"
    return FileCheck(relative, not reason, actual_size, actual, against, reason)


def verify(name: str) -> list[FileCheck]:
    """Check every file of the weights ``name``; each result says whether it is ``ok`` and against what.

    Pinned files are compared with their pin; others with what the hub stated: the name of the cached blob,
    else the hub's own metadata (network).

    Raises:
        UnknownName: no such weights.
        MissingWeights: not on this machine, or nothing to compare with.
    """
    from idpersona.registry import get_weight

    weight = get_weight(name)
    folder = locate(name)
    stated: dict[str, str | None] = {path: _stated_by_cache(folder / path) for path in weight.files}
    if any(sha is None and stated[path] is None for path, (sha, _) in weight.files.items()):
        if weight.place != "hub":
            raise MissingWeights(f"'{name}' cannot be verified: no hash of its files is known")
        stated |= _stated_by_hub(weight)
    return [
        check_file(folder, path, sha, size, stated.get(path)) for path, (sha, size) in weight.files.items()
    ]
