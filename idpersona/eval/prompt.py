"""``eval prompt``: does a picture show what was asked for, with and without an identity.

Every attribute is asked for and asked against on the same seeds; a model that draws smiles always, whatever
it is told, scores 50 %. The judge's own rate on labelled real photos says how far its word can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders.attributes import AttributeClassifier
from idpersona.errors import BadInput
from idpersona.eval.casting import Actor, cast_actors
from idpersona.eval.finders import Finder
from idpersona.eval.generation import Shot, Studio
from idpersona.eval.metrics import balanced_accuracy, balanced_hits, person_means
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report, tools_sha256
from idpersona.eval.statistics import paired_difference
from idpersona.eval.subjects import gather_subjects, one_photo_each
from idpersona.eval.tables import Cell, cell, markdown
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore, attribute_labels

_SHEET_COLUMNS = 8


def evaluate_prompt(
    studio: Studio,
    protocol: Protocol,
    *,
    classifier: AttributeClassifier,
    finder: Finder,
    store: PhotoStore,
    scale: float = 1.0,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Balanced hit rates of the protocol's attributes, for the base and (with an adapter) with identity on.

    With identity, seed k shows person k (modulo their number) in the pose of their reference at ``scale``;
    the base draws the same prompts and seeds, so that the difference is paired. Intervals are over seeds for
    the base, which shows nobody in particular, and over people where an identity is on.
    """
    plan = protocol.prompts
    known = [name for name in plan.attributes if name in classifier.labels]
    if not known:
        raise BadInput(f"{classifier.name} knows none of {', '.join(plan.attributes)}")
    failures = [f"{name}: unknown to {classifier.name}" for name in plan.attributes if name not in known]
    actors: list[Actor] = []
    if studio.adapter is not None and plan.with_identity:
        subjects, left_out = gather_subjects(protocol, store, finder, cache=cache, quiet=studio.quiet)
        actors, unread = cast_actors(studio.adapter, subjects, protocol, quiet=studio.quiet)
        failures += left_out + unread
    real, unusable = _real_rates(protocol, classifier, store, finder, known, cache, studio.quiet)
    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    strips: list[list[Image.Image | None]] = []
    names: list[str] = []
    for attribute in known:
        base, pictures = _hits(studio, protocol, classifier, attribute, plan.seeds, None, scale)
        row: dict[str, Any] = {
            "attribute": attribute,
            "base": protocol.interval(base),
            "with_identity": None,
        }
        row |= {"difference": None, "real_photos": real[attribute]}
        entry: dict[str, Any] = {"attribute": attribute, "base": base.tolist()}
        strips += pictures
        names += [f"+{attribute}", f"-{attribute}"]
        if actors and attribute in plan.with_identity:
            seeds = min(plan.identity_seeds, plan.seeds)
            hits, pictures = _hits(studio, protocol, classifier, attribute, seeds, actors, scale)
            # A person drawn with several seeds is one observation: intervals are over people.
            shown = min(seeds, len(actors))
            by_person = [person_means(v, np.arange(seeds) % shown, shown) for v in (hits, base[:seeds])]
            row["with_identity"] = protocol.interval(by_person[0])
            row["difference"] = paired_difference(
                *by_person, samples=protocol.bootstrap_samples, seed=protocol.seed
            )
            entry["with_identity"] = hits.tolist()
            strips += pictures
            names += [f"+{attribute} id", f"-{attribute} id"]
        rows.append(row)
        people.append(entry)
    return Report(
        kind="prompt",
        settings=protocol.record({"scale": scale, **(settings or {})}),
        weights={**studio.weights, **tools_sha256(finder, classifier=classifier)},
        rows=rows,
        people=people,
        table=_table(rows),
        notes=_notes(rows, protocol, classifier),
        failures=failures + unusable,
        sheet=contact_sheet(strips, names=names),
    )


def _hits(
    studio: Studio,
    protocol: Protocol,
    classifier: AttributeClassifier,
    attribute: str,
    seeds: int,
    actors: Sequence[Actor] | None,
    scale: float,
) -> tuple[np.ndarray, list[list[Image.Image | None]]]:
    """Balanced hits per seed and the first pictures, asked for and asked against."""
    answers: list[np.ndarray] = []
    strips: list[list[Image.Image | None]] = []
    for prompt in protocol.prompts.attributes[attribute]:
        numbers = [(index, protocol.seed * 1_000_003 + index) for index in range(seeds)]
        if actors:
            shots = [actors[index % len(actors)].shot(prompt, seed, scale) for index, seed in numbers]
        else:
            shots = [Shot(prompt, seed) for _, seed in numbers]
        pictures = studio.draw(shots, f"{attribute}{' with identity' if actors else ''}: {prompt}")
        answers.append(classifier.says(pictures, attribute))
        strips.append(list(pictures[:_SHEET_COLUMNS]))
    return balanced_hits(*answers), strips


def _real_rates(
    protocol: Protocol,
    classifier: AttributeClassifier,
    store: PhotoStore,
    finder: Finder,
    attributes: Sequence[str],
    cache: Path | None,
    quiet: bool,
) -> tuple[dict[str, dict[str, float | int | None]], list[str]]:
    """The judge's balanced rate per attribute on held-out photos whose label is known."""
    photos, failures = one_photo_each(
        protocol, store, finder, protocol.prompts.real_photos, cache=cache, quiet=quiet
    )
    labels = attribute_labels(store.root)
    said = classifier.probabilities([photo.framed(protocol.size)[0] for photo in photos]) > 0.5
    rates: dict[str, dict[str, float | int | None]] = {}
    for attribute in attributes:
        rows = [i for i, photo in enumerate(photos) if attribute in labels.get(photo.file, {})]
        truth = np.array([labels[photos[i].file][attribute] for i in rows], dtype=bool)
        both = bool(truth.any() and not truth.all())
        answer = said[rows, classifier.labels.index(attribute)]
        rates[attribute] = {
            "rate": balanced_accuracy(answer, truth) if both else None,
            "photos": len(rows),
            "with_attribute": int(truth.sum()),
        }
    return rates, failures


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = (
        "attribute",
        "base %",
        "with identity %",
        "difference (points)",
        "judge on real photos %",
        "real photos",
    )
    body: list[list[Cell]] = []
    for row in rows:
        real = row["real_photos"]
        cells = [row["base"], row["with_identity"], row["difference"], real["rate"]]
        counts = f"{real['with_attribute']} of {real['photos']}"
        body.append([row["attribute"], *[cell(value, percent=True) for value in cells], counts])
    return markdown(header, body)


def _notes(
    rows: Sequence[Mapping[str, Any]], protocol: Protocol, classifier: AttributeClassifier
) -> list[str]:
    mean = float(np.mean([row["base"].mean for row in rows]))
    notes = [
        f"balanced hit rate by {classifier.name}, asked for against asked against on the same "
        f"{protocol.prompts.seeds} seeds; mean over {len(rows)} attributes, base: {mean * 100:.1f} %"
    ]
    worst = [row for row in rows if row["difference"] is not None]
    if worst:
        row = min(worst, key=lambda r: r["difference"].mean)
        notes.append(
            f"largest loss with identity: {row['attribute']}, {cell(row['difference'], percent=True)} points"
        )
    return notes
