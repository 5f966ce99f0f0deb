"""Editing directions in a W+ space: a name, and what an amount of it does to a code.

Three published kinds are read: InterFaceGAN's unit vectors [1, dim] (arXiv:1907.10786), arrays with a step
for each row [rows, dim], and GANSpace's principal components with a table of names (arXiv:2004.02546).
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from idpersona.errors import BadInput, UnknownName, first_line
from idpersona.identity import Identity

STEERED_ROWS = 8
"""Arrays with a step for each row move so many rows from the first on, as their authors do: the rows after
them hold colour and texture."""


class Direction(Protocol):
    """One editing direction."""

    def apply(self, codes: np.ndarray, amount: float) -> np.ndarray:
        """``codes`` float32 [rows, dim] moved by ``amount``, a new array."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """``codes + amount * delta``; ``delta`` float32 [rows, dim]."""

    delta: np.ndarray

    def apply(self, codes: np.ndarray, amount: float) -> np.ndarray:
        if codes.shape != self.delta.shape:
            raise BadInput(
                f"a direction of W+ size {list(self.delta.shape)} for codes of {list(codes.shape)}: it is of "
                "another W+ space"
            )
        return (codes + np.float32(amount) * self.delta).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Component:
    """A principal component of GANSpace: ``amount`` is the coordinate that it is set to, in its spreads.

    ``mean`` and ``axis`` float32 [dim], ``spread`` a number; rows ``first`` to before ``last`` are moved.
    """

    mean: np.ndarray
    axis: np.ndarray
    spread: float
    first: int
    last: int

    def apply(self, codes: np.ndarray, amount: float) -> np.ndarray:
        if codes.shape[1] != len(self.axis) or self.last > len(codes):
            raise BadInput(
                f"a direction of width {len(self.axis)} and rows up to {self.last} for codes of "
                f"{list(codes.shape)}: it belongs to another W+ space"
            )
        now = float((codes[0] - self.mean) @ self.axis) / self.spread
        moved = codes.copy()
        moved[self.first : self.last] += np.float32((amount - now) * self.spread) * self.axis
        return moved


class WPlusDirections(ModelMixin, ConfigMixin):
    """Directions that come with an adapter: ``steps`` [names, rows, dim], each moved along by its amount.

    Args:
        names: of the directions.
        rows, dim: of a code.
    """

    @register_to_config
    def __init__(self, names: Sequence[str], rows: int, dim: int):
        super().__init__()
        self.register_buffer("steps", torch.zeros(len(names), rows, dim))

    def directions(self) -> dict[str, Direction]:
        """By name."""
        steps: Any = self.steps
        return {
            name: Step(step.float().cpu().numpy())
            for name, step in zip(self.config["names"], steps, strict=True)
        }


def read_direction(path: str | os.PathLike[str], rows: int, dim: int) -> Direction:
    """One direction of a ``.npy`` or ``.pt`` file.

    Its array is [1, dim], [rows, dim] or [1, rows, dim].

    Raises:
        BadInput: the file cannot be read, or is of another W+ size.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True).detach().numpy()
    except Exception as error:  # broken arrays and pickles fail in many ways
        raise BadInput(f"{path} is no direction that can be read: {first_line(error)}") from error
    values = np.asarray(values, dtype=np.float32)
    if values.shape == (1, rows, dim):
        values = values[0]
    if values.shape == (1, dim):
        return Step(np.repeat(values, rows, axis=0))
    if values.shape != (rows, dim) or not np.isfinite(values).all():
        raise BadInput(
            f"{path} holds {list(values.shape)}: a direction for this W+ is [1, {dim}] or [{rows}, {dim}]"
        )
    if path.suffix == ".npy":
        values = np.where(np.arange(rows)[:, None] < STEERED_ROWS, values, 0).astype(np.float32)
    return Step(values)


def read_ganspace(
    components: str | os.PathLike[str], table: str | os.PathLike[str], rows: int, dim: int
) -> dict[str, Direction]:
    """GANSpace's named directions.

    Args:
        components: file with ``mean`` [1, dim], ``comp`` [n, 1, dim] and ``std`` [n].
        table: CSV of name, component, first and last row (exclusive), suggested amount.

    Raises:
        BadInput: a file cannot be read, or is of another W+ size.
    """
    try:
        content = torch.load(components, map_location="cpu", weights_only=True)
        parts = {key: np.asarray(content[key], dtype=np.float32) for key in ("mean", "comp", "std")}
        text = Path(table).read_text(encoding="utf-8")
        lines = [
            line for line in csv.reader(text.splitlines(), delimiter="\t" if "\t" in text else ",") if line
        ]
        named = [(line[0], int(line[1]), int(line[2]), int(line[3])) for line in lines]
    except Exception as error:  # as above
        raise BadInput(f"{components} or {table} cannot be read: {first_line(error)}") from error
    if parts["mean"].shape != (1, dim) or any(last > rows for _, _, _, last in named):
        width = parts["mean"].shape[-1]
        raise BadInput(f"{components} is of width {width}, this adapter's W+ is [{rows}, {dim}]")
    beyond = [name for name, n, _, _ in named if n >= min(len(parts["comp"]), len(parts["std"]))]
    if beyond:
        raise BadInput(f"{table} names components that {components} does not hold: {', '.join(beyond[:3])}")
    return {
        name: Component(parts["mean"][0], parts["comp"][n, 0], float(parts["std"][n]), first, last)
        for name, n, first, last in named
    }


def read_directions(folder: str | os.PathLike[str], rows: int, dim: int) -> dict[str, Direction]:
    """All directions below ``folder``, by the name of their file or of GANSpace's table.

    Of two of one name, that of a file counts, and of files the first in alphabetical order of paths.

    Raises:
        BadInput: there is none, or one cannot be read or is of another W+ size.
    """
    folder = Path(folder)
    found: dict[str, Direction] = {}
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".npy", ".pt"))
    pca = [path for path in files if path.stem.endswith("_pca")]
    for path in files:
        if path not in pca:
            found.setdefault(path.stem, read_direction(path, rows, dim))
    for path in pca:
        table = next(iter(sorted(path.parent.glob("*.csv"))), None)
        if table is None:
            raise BadInput(f"{path} holds components without names: put GANSpace's table (.csv) beside it")
        for name, direction in read_ganspace(path, table, rows, dim).items():
            found.setdefault(name, direction)
    if not found:
        raise BadInput(f"there are no directions (.npy, .pt, *_pca.pt with a .csv) in {folder}")
    return found


def parse_edits(text: str) -> dict[str, float]:
    """``smile=2,age=-1`` as amounts by name. Raises BadInput for anything else."""
    edits: dict[str, float] = {}
    for part in text.split(","):
        name, equals, amount = part.strip().partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not equals or not name or not math.isfinite(value) or name in edits:
            raise BadInput(f"edit takes NAME=AMOUNT,NAME=AMOUNT…, as smile=2, got '{text}'")
        edits[name] = value
    return edits


def edit_identity(
    identity: Identity,
    encoder: str,
    edits: Mapping[str, float],
    directions: Mapping[str, Direction],
) -> Identity:
    """A copy of ``identity`` whose W+ codes (the feature of ``encoder``) are moved along named directions.

    Raises:
        UnknownName: there is no direction of that name.
        BadInput: a direction is of another W+ size.
    """
    feature = identity.feature(encoder, needed_by="wplus")
    photos = feature.values.reshape(-1, feature.tokens, feature.dim)
    for name, amount in edits.items():
        if name not in directions:
            raise UnknownName("direction", name, directions)
        photos = np.stack([directions[name].apply(photo, amount) for photo in photos])
    moved = replace(feature, values=photos.reshape(-1, feature.dim))
    return replace(identity, features={**identity.features, encoder: moved})
