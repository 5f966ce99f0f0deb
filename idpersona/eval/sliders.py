"""``eval sliders``: does a slider move its attribute, and leave the person.

Every person is drawn with five amounts of each direction, from one end to the other, on one seed.
*Monotonic*: the classifier's score never falls by more than :data:`ROUGH` below where it has been; *strictly*
counts every fall, also that from a probability of 0.002 to one of 0.001. *Flips*: at the end that leads
away from what the classifier says of the unmoved picture, it says the opposite. *Fall*: by how much the
likeness to the person's other photos is less at the median amount that flips than unmoved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders.attributes import AttributeClassifier
from idpersona.errors import BadInput
from idpersona.eval.casting import Actor, cast_actors, person_seed
from idpersona.eval.finders import Finder
from idpersona.eval.generation import Shot, Studio
from idpersona.eval.judges import Judge
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report, tools_sha256
from idpersona.eval.scoring import known_people, score, sit
from idpersona.eval.subjects import gather_subjects
from idpersona.eval.tables import cell, markdown
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore
from idpersona.training.directions import attribute_of

STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Parts of the strongest amount."""
ROUGH = 0.01
"""Differences of probability up to this are the classifier's noise, where it is sure of its answer."""


def evaluate_sliders(
    studio: Studio,
    protocol: Protocol,
    *,
    directions: Sequence[str],
    judges: Sequence[Judge],
    classifier: AttributeClassifier,
    finder: Finder,
    store: PhotoStore,
    amount: float = 2.0,
    scale: float = 1.0,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Move ``directions`` of an adapter that has such (``adapter.edit``) by up to ``amount`` either way.

    Raises:
        BadInput: no adapter with directions, no judge, or a direction that the classifier cannot judge.
        UnknownName: no such direction.
    """
    if not hasattr(studio.adapter, "edit") or not judges:
        raise BadInput("measuring sliders needs an adapter with editing directions, as wplus, and a judge")
    meant = {name: attribute_of(name, classifier.labels) for name in directions}
    subjects, failures = gather_subjects(protocol, store, finder, cache=cache, quiet=studio.quiet)
    actors, unread = cast_actors(studio.adapter, subjects, protocol, quiet=studio.quiet)
    known = {judge.name: known_people([a.subject for a in actors], judge) for judge in judges}
    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = [{"identity": actor.subject.name} for actor in actors]
    strips: list[Sequence[Image.Image]] = []
    shown = min(4, len(actors))
    # Common to all directions.
    unmoved = _draw(studio, protocol, actors, "unmoved", 0.0, scale)
    still = sit("unmoved", unmoved, range(len(actors)), finder, quiet=True)
    for name in directions:
        column, sign = meant[name]
        pictures = [
            _draw(studio, protocol, actors, name, step * amount, scale) if step else unmoved for step in STEPS
        ]
        said = np.stack([classifier.probabilities(one)[:, column] for one in pictures])
        said = said if sign > 0 else 1 - said
        sittings = [
            sit(name, one, range(len(actors)), finder, quiet=True) if step else still
            for step, one in zip(STEPS, pictures, strict=True)
        ]
        likeness = {
            judge.name: np.stack([score(s, judge, known[judge.name], protocol).own for s in sittings])
            for judge in judges
        }
        rows.append({"direction": name, **figures(said, likeness, amount, protocol)})
        for index, person in enumerate(people):
            person[name] = {
                "score": np.round(said[:, index], 4),
                **{judge: np.round(values[:, index], 4) for judge, values in likeness.items()},
            }
        strips += [[one[index] for one in pictures] for index in range(shown)]
    return Report(
        kind="sliders",
        settings=protocol.record({"amount": amount, "scale": scale, **(settings or {})}),
        weights={**studio.weights, **tools_sha256(finder, judges, classifier)},
        rows=rows,
        people=people,
        table=_table(rows, [judge.name for judge in judges]),
        notes=[f"{len(actors)} people, amounts {', '.join(f'{step * amount:g}' for step in STEPS)}"],
        failures=failures + unread,
        sheet=contact_sheet(
            strips,
            columns=[f"{step * amount:+g}" for step in STEPS],
            names=[name for name in directions for _ in range(shown)],
        ),
    )


def _draw(
    studio: Studio, protocol: Protocol, actors: Sequence[Actor], name: str, amount: float, scale: float
) -> list[Image.Image]:
    shots = []
    for index, actor in enumerate(actors):
        assert studio.adapter is not None
        moved = studio.adapter.edit(actor.identity, **{name: amount}) if amount else actor.identity
        shots.append(Shot(protocol.prompt, person_seed(protocol, index), moved, actor.pose, scale))
    return studio.draw(shots, f"{name} {amount:+g}")


def figures(
    said: np.ndarray, likeness: Mapping[str, np.ndarray], amount: float, protocol: Protocol
) -> dict[str, Any]:
    """Shares that are monotonic, strictly so, and flipped, the median amount that flips, and each judge's
    fall of likeness there.

    Args:
        said: scores in 0..1 that grow with the amount, float [amounts, people].
        likeness: judge -> own cosine, float [amounts, people].
    """

    amounts = len(said)
    middle, each = amounts // 2, np.arange(said.shape[1])
    falls = np.maximum.accumulate(said, axis=0) - said
    way = np.where(said[middle] > 0.5, -1, 1)
    # First step, counted from the middle, at which the classifier's answer is the other one; 0 for none.
    first = np.zeros(said.shape[1], dtype=int)
    for step in range(middle, 0, -1):
        other = (said[middle + step * way, each] > 0.5) != (said[middle] > 0.5)
        first = np.where(other, step, first)
    end = (said[middle + middle * way, each] > 0.5) != (said[middle] > 0.5)
    flipping = int(np.ceil(np.median(first[first > 0]))) if (first > 0).any() else None
    fall = {
        judge: None
        if flipping is None
        else protocol.interval(own[middle] - own[middle + flipping * way, each])
        for judge, own in likeness.items()
    }
    return {
        "monotonic": protocol.interval(np.all(falls <= ROUGH, axis=0)),
        "strictly": protocol.interval(np.all(falls <= 0, axis=0)),
        "flips": protocol.interval(end),
        "flipping_amount": None if flipping is None else flipping / middle * amount,
        "fall": fall,
    }


def _table(rows: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> str:
    header = [
        "direction",
        "monotonic, % of people",
        "strictly",
        "flips, % of people",
        "median amount that flips",
    ]
    header += [f"likeness lost there, {judge}" for judge in judges]
    return markdown(
        header,
        [
            [
                row["direction"],
                cell(row["monotonic"], percent=True),
                cell(row["strictly"], percent=True),
                cell(row["flips"], percent=True),
                cell(row["flipping_amount"], 2),
                *(cell(row["fall"][judge]) for judge in judges),
            ]
            for row in rows
        ],
    )
