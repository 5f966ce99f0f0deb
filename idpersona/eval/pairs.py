"""``eval pairs``: two people side by side in one picture, and is each of them who it should be.

Every face is compared with the other photos of the two people of its picture: it is right when it is nearer
to its own person. Guessing is right for half of the faces and a quarter of the pairs. The same people alone,
one per picture, say how much of what is missed comes from drawing them together.
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
from idpersona.eval.generation import Shot, Studio
from idpersona.eval.judges import Judge
from idpersona.eval.metrics import cosines
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report, tools_sha256
from idpersona.eval.scoring import Sitting, known_people, sit
from idpersona.eval.subjects import gather_subjects
from idpersona.eval.tables import cell, markdown
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore

TOGETHER, ALONE = "together", "each alone"
_SPARE = 8


def evaluate_pairs(
    studio: Studio,
    alone: Studio,
    protocol: Protocol,
    *,
    judges: Sequence[Judge],
    finder: Finder,
    store: PhotoStore,
    pairs: int = 50,
    scale: float = 1.0,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Measure the first ``2 * pairs`` people of the protocol, two by two.

    Args:
        studio: draws both; its pictures are twice as wide as the protocol's ``size``.
        alone: the same adapter, pictures of the protocol's size.

    Raises:
        BadInput: no adapter, no judge, or fewer people than asked for.
    """
    if studio.adapter is None or not judges:
        raise BadInput("measuring pairs needs an adapter and at least one judge")
    # A few more than needed, in the place of those that the adapter cannot read.
    needed = protocol.model_copy(update={"people": 2 * pairs + _SPARE})
    subjects, failures = gather_subjects(needed, store, finder, cache=cache, quiet=studio.quiet)
    actors, unread = cast_actors(studio.adapter, subjects, protocol, quiet=studio.quiet)
    if len(actors) < 2 * pairs:
        raise BadInput(
            f"{pairs} pairs need {2 * pairs} people, {len(actors)} could be read: ask for at most "
            f"{len(actors) // 2} pairs"
        )
    actors = actors[: 2 * pairs]
    wide = studio.draw([_shot(actors, n, protocol, scale) for n in range(pairs)], "pairs")
    size = protocol.size
    halves = [half.crop((x, 0, x + size, size)) for half in wide for x in (0, size)]
    single = [a.shot(protocol.prompt, person_seed(protocol, i), scale) for i, a in enumerate(actors)]
    owners = range(2 * pairs)
    sittings = {
        TOGETHER: sit(TOGETHER, halves, owners, finder, quiet=studio.quiet),
        ALONE: sit(ALONE, alone.draw(single, ALONE), owners, finder, quiet=studio.quiet),
    }
    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = [{"identity": actor.subject.name} for actor in actors]
    for judge in judges:
        prototypes = known_people([actor.subject for actor in actors], judge).prototypes
        for name, sitting in sittings.items():
            lead = leads(sitting, judge, prototypes)
            rows.append({"judge": judge.name, "row": name, **_figures(lead, sitting, protocol)})
            for person, value in zip(people, lead, strict=True):
                person[f"{judge.name}, {name}"] = None if np.isnan(value) else round(float(value), 5)
    return Report(
        kind="pairs",
        settings=protocol.record({"pairs": pairs, "scale": scale, **(settings or {})}),
        weights={**studio.weights, **tools_sha256(finder, judges)},
        rows=rows,
        people=people,
        table=_table(rows),
        notes=[f"{pairs} pairs; by chance 50 % of the faces and 25 % of the pairs are right"],
        failures=failures + unread,
        sheet=_sheet(actors, wide, size),
    )


def _shot(actors: Sequence[Actor], pair: int, protocol: Protocol, scale: float) -> Shot:
    size, (left, right) = protocol.size, actors[2 * pair : 2 * pair + 2]
    assert left.identity is not None and right.identity is not None
    together = ((left.identity, (0, 0, size, size)), (right.identity, (size, 0, size, size)))
    return Shot(protocol.prompt, person_seed(protocol, 2 * pair), scale=scale, together=together)


def leads(sitting: Sitting, judge: Judge, prototypes: np.ndarray) -> np.ndarray:
    """By how much each face is nearer to its own person than to its partner, float [people].

    People 2n and 2n + 1 are partners; not a number where no face was found.
    """
    found = [n for n, face in enumerate(sitting.faces) if face is not None]
    lead = np.full(len(sitting.pictures), np.nan)
    if found:
        faces = [face for face in sitting.faces if face is not None]
        table = cosines(
            judge.embed([sitting.pictures[n] for n in found], [face.keypoints for face in faces]), prototypes
        )
        owners = sitting.owners[found]
        each = np.arange(len(found))
        lead[found] = table[each, owners] - table[each, owners ^ 1]
    return lead


def _figures(lead: np.ndarray, sitting: Sitting, protocol: Protocol) -> dict[str, Any]:
    right = np.nan_to_num(lead, nan=-1.0) > 0

    def interval(values: np.ndarray) -> Any:
        pairs = values.reshape(-1, 2).astype(np.float64)
        return protocol.interval(pairs.mean(axis=1))

    both = np.repeat(right.reshape(-1, 2).all(axis=1), 2)
    return {
        "pairs_right": interval(both),
        "faces_right": interval(right),
        "lead": interval(np.nan_to_num(lead)),
        "detection": interval(np.array([face is not None for face in sitting.faces])),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("judge", "row", "both right, % of pairs", "right, % of faces", "own - partner", "detection %")
    return markdown(
        header,
        [
            [
                row["judge"],
                row["row"],
                cell(row["pairs_right"], percent=True),
                cell(row["faces_right"], percent=True),
                cell(row["lead"]),
                cell(row["detection"], percent=True),
            ]
            for row in rows
        ],
    )


def _sheet(actors: Sequence[Actor], wide: Sequence[Image.Image], size: int) -> Image.Image:
    rows: list[list[Image.Image | None]] = []
    for pair, picture in enumerate(wide[:12]):
        halves: list[Image.Image | None] = [picture.crop((x, 0, x + size, size)) for x in (0, size)]
        known = [actor.subject.reference.framed(size)[0] for actor in actors[2 * pair : 2 * pair + 2]]
        rows.append([*known, *halves])
    return contact_sheet(rows, columns=("photo", "photo", "left", "right"))
