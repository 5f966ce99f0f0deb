"""``eval identity``: do pictures show the person, and how much of that is the adapter's doing.

Rows: floor (base without identity, same prompt and seeds), the adapter at each scale, real photos (the
reference itself), and the reference through the base's autoencoder, which no picture of this base can beat by
being right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval.autoencoder import roundtrip
from idpersona.eval.casting import Actor, cast_actors, person_seed
from idpersona.eval.finders import Finder
from idpersona.eval.generation import Studio, without_identity
from idpersona.eval.judges import Judge
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report, tools_sha256
from idpersona.eval.scoring import IdentityScores, Sitting, known_people, score, sit
from idpersona.eval.statistics import paired_difference
from idpersona.eval.subjects import gather_subjects
from idpersona.eval.tables import cell, markdown, ranking_line
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore

FLOOR, REAL, CEILING = "base without identity", "real photos", "real photos through the VAE"
_ALLOWED_FALL = 0.01


def evaluate_identity(
    studio: Studio,
    protocol: Protocol,
    *,
    judges: Sequence[Judge],
    finder: Finder,
    store: PhotoStore,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Measure identity on the protocol's held-out people.

    Args:
        studio: base and adapter; without an adapter only floor and real rows are measured.
        judges: at least one; each gives its own rows.
        finder: finds the face in every picture, real or drawn.
        cache: folder for faces found in real photos.
        settings: names to be recorded in the report (base, adapter …).

    Raises:
        BadInput: no judge, or fewer than two usable people.
    """
    if not judges:
        raise BadInput("an identity evaluation needs at least one judge")
    quiet = studio.quiet
    subjects, failures = gather_subjects(protocol, store, finder, cache=cache, quiet=quiet)
    actors, unread = cast_actors(studio.adapter, subjects, protocol, quiet=quiet)
    sittings = _sittings(studio, protocol, actors, finder)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    people: list[dict[str, Any]] = [
        {"identity": a.subject.name, "reference": a.subject.reference.file} for a in actors
    ]
    for judge in judges:
        known = known_people([actor.subject for actor in actors], judge)
        scores = {name: score(sitting, judge, known, protocol) for name, sitting in sittings.items()}
        rows += [_row(judge.name, name, result, protocol) for name, result in scores.items()]
        for index, person in enumerate(people):
            person[judge.name] = {name: _person(result, index) for name, result in scores.items()}
        notes += _step_notes(judge.name, scores, protocol)
        compared = {r["row"]: r["own_minus_others"] for r in rows if r["judge"] == judge.name}
        notes.append(ranking_line(f"own - others by {judge.name}", compared))
    gallery = min(protocol.gallery, len(actors))
    if gallery < protocol.gallery:
        notes.append(f"only {len(actors)} people: rank-1 is among {gallery}, not {protocol.gallery}")
    return Report(
        kind="identity",
        settings=protocol.record(settings),
        weights={**studio.weights, **tools_sha256(finder, judges)},
        rows=rows,
        people=people,
        table=_table(rows, gallery),
        notes=notes,
        failures=failures + unread,
        sheet=_sheet(actors, sittings, protocol),
    )


def scale_name(scale: float) -> str:
    """Name of the row of an adapter at ``scale``."""
    return f"scale {scale:g}"


def _sittings(studio: Studio, protocol: Protocol, actors: list[Actor], finder: Finder) -> dict[str, Sitting]:
    per_person = range(protocol.pictures_per_person)
    owners = [person for person in range(len(actors)) for _ in per_person]
    seeds = [
        person_seed(protocol, person, picture) for person in range(len(actors)) for picture in per_person
    ]

    def shots(scale: float) -> list[Any]:
        return [actors[o].shot(protocol.prompt, seed, scale) for o, seed in zip(owners, seeds, strict=True)]

    drawn = {FLOOR: studio.draw([without_identity(shot) for shot in shots(0.0)], FLOOR)}
    for scale in protocol.scales if studio.adapter is not None else ():
        drawn[scale_name(scale)] = studio.draw(shots(scale), scale_name(scale))
    real = [actor.subject.reference.framed(protocol.size)[0] for actor in actors]
    result = {
        name: sit(name, pictures, owners, finder, quiet=studio.quiet) for name, pictures in drawn.items()
    }
    for name, pictures in ((REAL, real), (CEILING, roundtrip(studio.pipe, real))):
        result[name] = sit(name, pictures, range(len(actors)), finder, quiet=studio.quiet)
    return result


def _row(judge: str, name: str, result: IdentityScores, protocol: Protocol) -> dict[str, Any]:
    return {
        "judge": judge,
        "row": name,
        **result.intervals(protocol),
        "own_when_found": result.own_when_found,
    }


def _person(result: IdentityScores, index: int) -> dict[str, float]:
    names = ("own", "reference", "others", "rank1", "detection")
    return {name: round(float(getattr(result, name)[index]), 5) for name in names}


def _step_notes(judge: str, scores: Mapping[str, IdentityScores], protocol: Protocol) -> list[str]:
    """Own cosine from one scale to the next, the same people and seeds on both sides."""
    notes = []
    scales = [scale for scale in sorted(protocol.scales) if scale_name(scale) in scores]
    for low, high in pairwise(scales):
        step = paired_difference(
            scores[scale_name(high)].own,
            scores[scale_name(low)].own,
            samples=protocol.bootstrap_samples,
            seed=protocol.seed,
        )
        falls = f" (falls by more than {_ALLOWED_FALL})" if step.mean < -_ALLOWED_FALL else ""
        notes.append(f"paired step {low:g} -> {high:g} of own by {judge}: {cell(step)}{falls}")
    return notes


def _table(rows: Sequence[Mapping[str, Any]], gallery: int) -> str:
    header = (
        "judge",
        "row",
        "own",
        "to the reference",
        "others",
        "own - others",
        f"rank-1 of {gallery}",
        "detection",
        "own if found",
    )
    keys = (
        "judge",
        "row",
        "own",
        "reference",
        "others",
        "own_minus_others",
        "rank1",
        "detection",
        "own_when_found",
    )
    return markdown(header, [[row[key] for key in keys] for row in rows])


def _sheet(
    actors: Sequence[Actor], sittings: Mapping[str, Sitting], protocol: Protocol, limit: int = 16
) -> Image.Image:
    columns = ["another photo", REAL, *[name for name in sittings if name != REAL]]
    rows: list[list[Image.Image | None]] = []
    for person, actor in enumerate(actors[:limit]):
        row: list[Image.Image | None] = [actor.subject.others[0].framed(protocol.size)[0]]
        for name in columns[1:]:
            sitting = sittings[name]
            row.append(sitting.pictures[int((sitting.owners == person).argmax())])
        rows.append(row)
    return contact_sheet(rows, columns=columns, names=[a.subject.name for a in actors[:limit]])
