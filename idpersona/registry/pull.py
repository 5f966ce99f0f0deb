"""Fetching weights from the hub: resumable, then verified."""

from __future__ import annotations

from pathlib import Path

from idpersona.errors import BadInput
from idpersona.registry.hub import hub_client
from idpersona.registry.locate import installed, locate
from idpersona.registry.verify import FileCheck, verify


def pull(name: str) -> Path:
    """Fetch the missing files of the weights ``name``, going on where a download stopped, and verify all.

    Embedded and package weights are only verified: there is nothing to fetch.

    Returns:
        The folder they lie in.

    Raises:
        UnknownName: no such weights.
        MissingWeights: the hub cannot be reached or refuses.
        BadInput: a file does not match its hash.
    """
    from idpersona.registry import get_weight

    weight = get_weight(name)
    if weight.place == "hub" and installed(name) is None:
        _fetch(name)
    folder = locate(name)
    report_broken(name, verify(name))
    return folder


def report_broken(name: str, checks: list[FileCheck]) -> None:
    """Raise one line that names the broken files, if there are any."""
    broken = [check for check in checks if not check.ok]
    if broken:
        named = "; ".join(f"{check.path}: {check.reason}" for check in broken[:3])
        raise BadInput(
            f"weights '{name}' are not what the registry says: {named}; delete these files and pull again"
        )


def _fetch(name: str) -> None:
    from huggingface_hub import snapshot_download

    from idpersona.registry import get_weight

    weight = get_weight(name)
    repository, folder = weight.hub
    prefix = f"{folder}/" if folder else ""
    failed = f"cannot fetch '{name}' from the hub ({repository})"
    with hub_client(failed, "; what came is kept, run it again"):
        snapshot_download(repository, allow_patterns=[prefix + path for path in weight.files])
