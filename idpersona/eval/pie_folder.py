"""The folder of PIE-Bench (arXiv:2310.01506): photos, prompts and masks of 700 edits of ten types.

``mapping_file.json`` maps names of edits to objects with ``image_path`` (below ``annotation_images``),
``original_prompt``, ``editing_prompt`` (brackets in them mark what differs), ``blended_word`` (one word of
each prompt, or nothing), ``editing_type_id`` and ``mask`` (see :mod:`~idpersona.eval.masks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from idpersona.checkpoint import read_json
from idpersona.errors import BadInput
from idpersona.eval.masks import decode_runs
from idpersona.images import open_photo

MAPPING, PHOTOS = "mapping_file.json", "annotation_images"
WHERE = "https://github.com/cure-lab/PnPInversion"
TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit to make.

    Attributes:
        name: in the benchmark.
        photo: path.
        source, target: prompts, without brackets.
        blend: a word of each that the edit keeps to; None where none is annotated.
        kind: key of :data:`TYPES`.
        runs: of its mask.
    """

    name: str
    photo: Path
    source: str
    target: str
    blend: tuple[str, str] | None
    kind: str
    runs: tuple[int, ...]

    @property
    def mask(self) -> np.ndarray:
        """Of what is to be edited, bool [512, 512]."""
        return decode_runs(self.runs)


def read_edits(
    folder: str | Path, *, types: Sequence[str] | None = None, limit: int | None = None
) -> list[Edit]:
    """The edits in the folder, in its order, all of them checked and every photo opened once.

    Args:
        folder: that holds ``mapping_file.json`` and ``annotation_images``.
        types: keys of :data:`TYPES`; None for all.
        limit: of how many, spread evenly over the types; None for all.

    Raises:
        BadInput: no such folder, a type that there is not, or a damaged item; it is named.
        PhotoError: a photo is missing or damaged.
    """
    root = Path(folder)
    for part in (MAPPING, PHOTOS):
        if not (root / part).exists():
            raise BadInput(f"{root} is no folder of PIE-Bench: it holds no {part}; get it from {WHERE}")
    unknown = [kind for kind in types or () if kind not in TYPES]
    if unknown:
        known = ", ".join(f"{key} {name}" for key, name in TYPES.items())
        raise BadInput(f"PIE-Bench has no type of edit '{unknown[0]}'; known: {known}")
    if limit is not None and limit < 1:
        raise BadInput(f"the number of edits must be at least 1, got {limit}")
    entries = read_json(root / MAPPING)
    edits = [_edit(root, name, entry) for name, entry in entries.items()]
    edits = [edit for edit in edits if types is None or edit.kind in types]
    if not edits:
        raise BadInput(f"{root / MAPPING} holds no edit of type {', '.join(types or TYPES)}")
    edits = _spread(edits, limit)
    for edit in edits:
        open_photo(edit.photo)
    return edits


def _spread(edits: list[Edit], limit: int | None) -> list[Edit]:
    """At most ``limit`` edits: the first of every type, the second of every type, and so on."""
    ranks: list[int] = []
    seen = dict.fromkeys(TYPES, 0)
    for edit in edits:
        ranks.append(seen[edit.kind])
        seen[edit.kind] += 1
    chosen = sorted(range(len(edits)), key=lambda n: (ranks[n], n))[:limit]
    return [edits[n] for n in sorted(chosen)]


def _edit(root: Path, name: str, entry: Any) -> Edit:
    def damaged(what: str) -> BadInput:
        return BadInput(f"{root / MAPPING}: the edit '{name}' is damaged: {what}")

    if not isinstance(entry, Mapping):
        raise damaged("it is no object")
    words: dict[str, str] = {}
    for key in ("image_path", "original_prompt", "editing_prompt", "blended_word"):
        if not isinstance(entry.get(key), str):
            raise damaged(f"{key} is no text")
        words[key] = entry[key].replace("[", "").replace("]", "").strip()
    place = PurePosixPath(entry["image_path"])
    if place.is_absolute() or ".." in place.parts or not place.name:
        raise damaged(f"image_path '{place}' leads out of {PHOTOS}")
    kind = str(entry.get("editing_type_id"))
    if kind not in TYPES:
        raise damaged(f"editing_type_id is '{kind}', not one of {', '.join(TYPES)}")
    # Some annotators took the comma behind a word for a part of it.
    blend = [word.strip(".,;:!?\"'") for word in words["blended_word"].split()]
    if blend and (len(blend) < 2 or not all(blend[:2])):
        raise damaged("blended_word names no word of each prompt")
    runs = entry.get("mask")
    if not isinstance(runs, list):
        raise damaged("mask is no list")
    try:
        decode_runs(runs)
    except BadInput as error:
        raise damaged(str(error)) from error
    return Edit(
        name=name,
        photo=root / PHOTOS / place,
        source=words["original_prompt"],
        target=words["editing_prompt"],
        blend=(blend[0], blend[1]) if blend else None,
        kind=kind,
        runs=tuple(runs),
    )
