"""Where weights lie on this machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from idpersona.errors import MissingWeights
from idpersona.registry.weight import Weight


def models_home() -> Path:
    """Folder for weights put there by hand: ``IDPERSONA_WEIGHTS``, else ``~/.cache/idpersona/models``."""
    named = os.environ.get("IDPERSONA_WEIGHTS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "idpersona" / "models"


def candidates(weight: Weight) -> list[Path]:
    """Folders in which ``weight`` may lie, in the order in which they are looked at."""
    if weight.place == "embedded":
        return [Path(str(resources.files("idpersona.assets"))) / weight.source]
    if weight.place == "package":
        spec = importlib.util.find_spec(weight.source)
        places = list(spec.submodule_search_locations or ()) if spec else []
        return [Path(place) / "models" for place in places]
    folders = [models_home() / weight.name]
    if weight.kind == "encoder":
        folders.append(Path.home() / ".insightface" / "models" / weight.name)
    # A published archive often holds one more folder of the same name.
    folders += [folder / weight.name for folder in folders]
    snapshot = cached_snapshot(weight) if weight.place == "hub" else None
    return folders + ([snapshot] if snapshot else [])


def cached_snapshot(weight: Weight) -> Path | None:
    """Folder of the hub's local cache that holds ``weight``, found without any network."""
    from huggingface_hub import try_to_load_from_cache

    repository, folder = weight.hub
    prefix = f"{folder}/" if folder else ""
    for path in weight.files:
        found = try_to_load_from_cache(repository, prefix + path)
        if isinstance(found, str):
            return Path(found[: -len(path)])
    return None


def absent(weight: Weight, folder: Path) -> list[str]:
    """Files of ``weight`` that are not in ``folder``."""
    return [path for path in weight.files if not (folder / path).is_file()]


def locate(name: str) -> Path:
    """Folder that holds all files of the weights ``name``.

    Raises:
        UnknownName: no such weights.
        MissingWeights: not (wholly) on this machine; says where they were looked for and what fetches them.
    """
    from idpersona.registry import get_weight

    weight = get_weight(name)
    folders = candidates(weight)
    for folder in folders:
        if folder.is_dir() and weight.files and not absent(weight, folder):
            return folder
    raise MissingWeights(missing_message(weight, folders))


def missing_message(weight: Weight, folders: list[Path]) -> str:
    """One line: which weights are missing, where they were looked for, and the cure."""
    partly = next((f for f in folders if f.is_dir() and len(absent(weight, f)) < len(weight.files)), None)
    lacking = f" ({', '.join(absent(weight, partly)[:3])} not in {partly})" if partly else ""
    looked = ", ".join(str(f) for f in folders) or "no place"
    lacking += still_packed(folders)
    looked_first = folders[0] if folders else "a folder"
    cure = {
        "embedded": "this installation of idpersona lacks its assets; install it again",
        "package": f"pip install {weight.source.replace('_', '-')}",
        "hub": f"run: idpersona models pull {weight.name}",
        "hand": f"fetch {', '.join(weight.files)} from {weight.source} and put it into {looked_first}",
    }[weight.place]
    return f"weights '{weight.name}' are missing{lacking}; looked in {looked}; {cure}"


def still_packed(folders: Sequence[Path]) -> str:
    """The end of a message where the archive of a missing folder lies beside it, else nothing."""
    archives = [zipped for f in folders if (zipped := f.with_name(f"{f.name}.zip")).is_file()]
    return f"; {archives[0]} is still packed: unzip it there" if archives else ""


def installed(name: str) -> Path | None:
    """Like :func:`locate`, but ``None`` when the weights are missing."""
    try:
        return locate(name)
    except MissingWeights:
        return None
