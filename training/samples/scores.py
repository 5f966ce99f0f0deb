"""Identity scores of drawn pictures: one line of ``scores.csv`` for each step and picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idpersona.errors import BadInput
from idpersona.images import atomic_output
from idpersona.training.samples.judging import Witness
from idpersona.training.samples.people import Person

_COLUMNS: tuple[str, ...] = (
    "step",
    "person",
    "prompt",
    "seed",
    "face_found",
    "identity_own",
    "identity_others",
    "judge",
    "measure",
)


@dataclass(frozen=True)
class Score:
    """Of one picture.

    Attributes:
        person: who was to be drawn; empty for nobody.
        face: whether the judge finds one in the picture.
        own: how alike it is to the person's photo, by the judge's measure; None without a face or a person.
        others: the same to the other people of the samples, on average; None where there are none.
    """

    person: str
    prompt: str
    seed: int
    face: bool
    own: float | None = None
    others: float | None = None


def score(
    seen: np.ndarray | None,
    person: Person | None,
    people: Sequence[Person],
    witness: Witness,
    *,
    prompt: str,
    seed: int,
) -> Score:
    """Score a picture in which the judge saw ``seen`` [D] (None: no face)."""
    name = person.name if person else ""
    if seen is None:
        return Score(name, prompt, seed, face=False)
    if person is None:
        return Score(name, prompt, seed, face=True)
    others = [witness.likeness(seen, other.seen) for other in people if other is not person]
    return Score(
        person=name,
        prompt=prompt,
        seed=seed,
        face=True,
        own=witness.likeness(seen, person.seen),
        others=float(np.mean(others)) if others else None,
    )


def means(scores: Sequence[Score]) -> dict[str, float]:
    """``identity_own`` and ``identity_others`` over the pictures that have one, and ``faces_found``.

    That is the share of the pictures with a face: a mean over few faces says little.
    """
    figures: dict[str, float] = {}
    for name, values in (
        ("identity_own", [s.own for s in scores if s.own is not None]),
        ("identity_others", [s.others for s in scores if s.others is not None]),
        ("faces_found", [float(s.face) for s in scores]),
    ):
        if values:
            figures[name] = float(np.mean(values))
    return figures


def scored_steps(path: Path) -> set[int]:
    """Steps that ``scores.csv`` holds, none where it is not there; BadInput where it is something else."""
    return {int(row["step"]) for row in _rows(path)}


def write_scores(path: Path, step: int, scores: Sequence[Score], witness: Witness) -> None:
    """Put the scores of a step into ``scores.csv``, in the place of those that it had.

    Raises:
        OutputError: it cannot be written.
        BadInput: what lies there is something else.
    """
    rows = [row for row in _rows(path) if int(row["step"]) != step]
    for s in scores:
        values = (step, s.person, s.prompt, s.seed, int(s.face), _told(s.own), _told(s.others))
        written = (str(value) for value in (*values, witness.name, witness.measure))
        rows.append(dict(zip(_COLUMNS, written, strict=True)))
    rows.sort(key=lambda row: int(row["step"]))
    with atomic_output(path, force=True) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(tuple(row) != _COLUMNS or not (row["step"] or "").isdecimal() for row in rows):
        raise BadInput(f"{path} holds something else than scores of samples: move it away")
    return rows
