"""``eval pose``: does the face stand where the keypoints asked for it.

Keypoints of held-out photos are moved, enlarged and turned at random, given to the adapter, and found again
by a detector that had no part in training. Two more rows give the measure its meaning: the photos themselves,
framed that way (how far two detectors disagree about a real face), and the pictures against what the same
detector sees in those photos (the same measure without that disagreement).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval.casting import Actor, cast_actors, person_seed
from idpersona.eval.finders import Finder
from idpersona.eval.generation import Studio
from idpersona.eval.metrics import keypoint_error, shuffled_errors
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report
from idpersona.eval.statistics import Interval
from idpersona.eval.subjects import gather_subjects
from idpersona.eval.tables import cell, markdown
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore

DRAWN, REAL = "drawn, against the points asked for", "the photos themselves, against the points asked for"
AS_SEEN = "drawn, against the photos as the same finder sees them"


def evaluate_pose(
    studio: Studio,
    protocol: Protocol,
    *,
    finder: Finder,
    reader: Finder,
    store: PhotoStore,
    scale: float = 1.0,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Mean error of the five points in percent of the width, detection, and the ratio to shuffled keypoints.

    Args:
        studio: must have an adapter that follows a pose.
        finder: finds the points in the drawn pictures (``yunet`` for claims).
        reader: finds the points of the photos that are asked for.

    Raises:
        BadInput: the studio has no adapter.
    """
    if studio.adapter is None:
        raise BadInput("a pose evaluation needs an adapter")
    plan_people = protocol.model_copy(update={"people": min(protocol.pose.photos, protocol.people)})
    subjects, failures = gather_subjects(plan_people, store, reader, cache=cache, quiet=studio.quiet)
    actors, unread = cast_actors(studio.adapter, subjects, protocol, quiet=studio.quiet)
    photos, asked = _moved(actors, protocol)
    shots = [
        actor.shot(protocol.prompt, person_seed(protocol, i), scale, pose)
        for i, (actor, pose) in enumerate(zip(actors, asked, strict=True))
    ]
    pictures = studio.draw(shots, "posed pictures")
    plan = protocol.pose
    drawn = _points(finder, pictures)
    real = _points(finder, photos)
    seen = [(d, r) for d, r in zip(drawn, real, strict=True) if r is not None]
    compared = {
        DRAWN: (drawn, asked),
        REAL: (real, asked),
        AS_SEEN: ([d for d, _ in seen], [r for _, r in seen]),
    }
    rows = [_row(name, found, target, protocol) for name, (found, target) in compared.items() if found]
    errors = {name: _errors(*compared[name], protocol.size) for name in (DRAWN, REAL)}
    return Report(
        kind="pose",
        settings=protocol.record({"scale": scale, **(settings or {})}),
        weights={
            **studio.weights,
            f"finder:{finder.name}": finder.weights_sha256,
            f"reader:{reader.name}": reader.weights_sha256,
        },
        rows=rows,
        people=[
            {
                "identity": actor.subject.name,
                "photo": actor.subject.reference.file,
                "asked": np.round(asked[i], 2),
                **{name: values[i] for name, values in errors.items()},
            }
            for i, actor in enumerate(actors)
        ],
        table=_table(rows),
        notes=[
            f"{len(actors)} people; shift up to {plan.shift:.0%}, size {plan.smallest:g} to "
            f"{plan.largest:g}, roll up to {plan.roll:g} degrees; found by {finder.name}"
        ],
        failures=failures + unread,
        sheet=_sheet(photos, pictures, asked),
    )


def _moved(actors: Sequence[Actor], protocol: Protocol) -> tuple[list[Image.Image], list[np.ndarray]]:
    plan = protocol.pose
    rng = np.random.default_rng(protocol.seed)
    photos: list[Image.Image] = []
    asked: list[np.ndarray] = []
    for actor in actors:
        shift_x, shift_y = rng.uniform(-plan.shift, plan.shift, size=2)
        picture, points = actor.subject.reference.framed(
            protocol.size,
            shift=(float(shift_x), float(shift_y)),
            scale=float(rng.uniform(plan.smallest, plan.largest)),
            roll_degrees=float(rng.uniform(-plan.roll, plan.roll)),
        )
        photos.append(picture)
        asked.append(points)
    return photos, asked


def _points(finder: Finder, pictures: Sequence[Image.Image]) -> list[np.ndarray | None]:
    faces = [finder.find(picture) for picture in pictures]
    return [None if face is None else face.keypoints for face in faces]


def _errors(
    found: Sequence[np.ndarray | None], asked: Sequence[np.ndarray], width: int
) -> list[float | None]:
    return [None if p is None else keypoint_error(p, a, width) for p, a in zip(found, asked, strict=True)]


def _row(
    name: str, found: Sequence[np.ndarray | None], asked: Sequence[np.ndarray], protocol: Protocol
) -> dict[str, Any]:
    def interval(values: Sequence[float | None]) -> Interval | None:
        known = [value for value in values if value is not None]
        return protocol.interval(known) if known else None

    error = interval(_errors(found, asked, protocol.size))
    other = interval(shuffled_errors(found, asked, protocol.size))
    return {
        "row": name,
        "error_percent": error,
        "detection": interval([float(points is not None) for points in found]),
        "shuffled_percent": other,
        "ratio": other.mean / error.mean if error and other and error.mean > 0 else None,
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("row", "error, % of width", "detection %", "shuffled, % of width", "shuffled / asked")
    return markdown(
        header,
        [
            [
                row["row"],
                cell(row["error_percent"], 2),
                cell(row["detection"], percent=True),
                cell(row["shuffled_percent"], 2),
                cell(row["ratio"], 1),
            ]
            for row in rows
        ],
    )


def _sheet(
    photos: Sequence[Image.Image], pictures: Sequence[Image.Image], asked: Sequence[np.ndarray]
) -> Image.Image:
    from idpersona.keypoints import draw_kps

    limit = min(16, len(photos))
    drawings = [draw_kps(photos[i].size, asked[i], radius=3, stick_width=1) for i in range(limit)]
    return contact_sheet(
        [[photos[i], drawings[i], pictures[i]] for i in range(limit)], columns=("photo", "asked", "drawn")
    )
