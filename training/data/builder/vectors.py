"""Arrays with one row for each photo of a dataset, in safetensors files of limited size.

Every file names what made its rows, and holds the sha256 of each row's photo: rows and photos can be compared
at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from idpersona.errors import BadInput, first_line

KEY = "idpersona_rows"
"""Of what is said of the rows, as JSON, in the metadata of a file."""
ROWS = 65536
"""Rows of a file of embeddings; of 128 numbers each they take 34 MB."""


def embedding_name(encoder: str, weights_sha256: str, number: int) -> str:
    """File of embeddings ``number``, by the encoder and the first 12 digits of its weights' hash."""
    return f"embeddings-{encoder}-{weights_sha256[:12]}-{number:05d}.safetensors"


def write_shard(
    path: Path, arrays: Mapping[str, np.ndarray], photos: Sequence[str], first: int, about: Mapping[str, str]
) -> None:
    """Write one file, whole or not at all.

    Args:
        path: to write.
        arrays: name -> [n, …].
        photos: sha256 (hex) of the n photos.
        first: place of the first of them in ``metadata.jsonl``, from 0.
        about: what made the rows.
    """
    hashes = np.frombuffer(bytes.fromhex("".join(photos)), np.uint8).reshape(-1, 32)
    content = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    # One entry, because safetensors writes several in an order that differs from process to process.
    metadata = json.dumps({**about, "first_row": first, "rows": len(photos)}, sort_keys=True)
    save_file({**content, "sha256": hashes}, part, {KEY: metadata})
    part.replace(path)


def read_shard(path: Path) -> tuple[dict[str, np.ndarray], list[str], dict[str, Any]]:
    """Arrays, sha256 of the photos and what is said of them; raises BadInput for a damaged file."""
    try:
        with safe_open(path, framework="numpy") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        hashes = arrays.pop("sha256")
        if hashes.dtype != np.uint8 or hashes.ndim != 2 or hashes.shape[1] != 32:
            raise ValueError("sha256 is not uint8 [n, 32]")
        if any(len(values) != len(hashes) for values in arrays.values()):
            raise ValueError("arrays of different lengths")
        about["first_row"] = int(about["first_row"])
    except Exception as error:  # hostile bytes break the reader of safetensors in its own way
        raise BadInput(f"{path.name} is damaged: {first_line(error)}") from error
    return arrays, [row.tobytes().hex() for row in hashes], about


def check_shard(path: Path, photos: Sequence[str], first: int) -> tuple[str, int]:
    """What is wrong with a file whose rows should be of ``photos`` from the first on ("" for nothing), and
    how many rows it has.

    Args:
        path: the file.
        photos: sha256 (hex) of the photos from the place where it begins.
        first: that place in the table, from 0.
    """
    try:
        arrays, hashes, about = read_shard(path)
    except BadInput as error:
        return str(error), 0
    if about["first_row"] != first:
        return f"it begins with row {about['first_row']} instead of {first}, a file before it is missing", 0
    for row, (there, wanted) in enumerate(zip(hashes, photos, strict=False)):
        if there != wanted:
            return f"row {row} is not of the photo in row {first + row} of the table", 0
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            return f"{name} holds values that are not finite", 0
    return "", len(hashes)


def read_rows(folder: Path, pattern: str, photos: Sequence[str]) -> dict[str, np.ndarray]:
    """All rows of the files ``pattern`` of a dataset, in the order of its photos.

    Args:
        folder: the dataset.
        pattern: as ``embeddings-dlib-*.safetensors``.
        photos: sha256 (hex) of the dataset's photos, in the order of ``metadata.jsonl``.

    Raises:
        BadInput: there is no such file, one is damaged, or they are not of these photos.
    """
    parts: list[dict[str, np.ndarray]] = []
    found: list[str] = []
    for path in sorted(folder.glob(pattern)):
        arrays, hashes, _ = read_shard(path)
        parts.append(arrays)
        found += hashes
    if not parts:
        raise BadInput(f"{folder} holds no {pattern}")
    if found != list(photos):
        raise BadInput(f"the {pattern} of {folder} are not of the photos in its table: make them again")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
