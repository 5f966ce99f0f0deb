"""``eval editing``: real photos, attributes turned round by words; does it happen, and what else does.

Every held-out photo is described by the ``labeler`` (:mod:`idpersona.encoders.describe`), inverted with
those words, and drawn again with one attribute the other way round in them. *Success*: a classifier that
had no part in it says of the edit what was asked for. *Likeness*: cosine of a judge's embeddings of photo
and edit; an edit in which no face is found has none, and counts 0. *Background*: PSNR to the photo outside
of an ellipse around the head. The row ``photo`` is the photo itself, unedited, which is a success where the
two classifiers disagree. Rows by the name of an inversion are guided as published, but for the steps that
``strength`` leaves to the photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders.attributes import AttributeClassifier
from idpersona.encoders.describe import WORDS, turn
from idpersona.errors import BadInput
from idpersona.eval.edit_ways import Retoucher, Way
from idpersona.eval.features import feature_distance, network_sha256
from idpersona.eval.finders import Finder
from idpersona.eval.judges import Judge
from idpersona.eval.pictures import psnr
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report, tools_sha256
from idpersona.eval.sitters import Sitter, sitters
from idpersona.eval.tables import cell, markdown
from idpersona.pipelines.base import native_size
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore

ATTRIBUTES = ("Smiling", "Eyeglasses", "Wearing_Hat", "Young", "Blond_Hair")
SAID = (*WORDS, "Young", "Male")
"""Attributes that change the words for a face."""


def evaluate_editing(
    pipe: Any,
    protocol: Protocol,
    ways: Sequence[Way],
    *,
    judges: Sequence[Judge],
    classifier: AttributeClassifier,
    finder: Finder,
    store: PhotoStore,
    photos: int = 24,
    attributes: Sequence[str] = ATTRIBUTES,
    steps: int = 50,
    guidance: float = 7.5,
    batch: int = 8,
    cache: Path | None = None,
    pictures: Path | None = None,
    quiet: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Edit ``photos`` photos in every way, once for each of ``attributes``.

    Args:
        guidance: that photos are inverted for.
        batch: photos that are inverted and edited at once.
        cache: folder of faces found in photos.
        pictures: folder of finished edits, from which an interrupted run goes on; None keeps none.

    Raises:
        BadInput: an attribute that the classifier does not know, or no judge.
    """
    unknown = [name for name in attributes if name not in classifier.labels]
    if unknown or not judges:
        raise BadInput(f"{classifier.name} does not know {', '.join(unknown) or 'a judge'}")
    if silent := [name for name in attributes if name not in SAID]:
        raise BadInput(f"no words are known for {', '.join(silent)}; known: {', '.join(SAID)}")
    retoucher = Retoucher(
        pipe, ways, attributes, steps=steps, guidance=guidance, batch=batch, pictures=pictures, quiet=quiet
    )
    side = min(native_size(pipe))
    people, failures = sitters(protocol, store, finder, photos, side, cache=cache, quiet=quiet)
    meters = _Meters(people, attributes, judges, classifier, finder)
    values = {"photo": meters.measure([[p.picture] * len(attributes) for p in people])}
    shown: dict[str, list[list[Image.Image]]] = {}
    seconds: dict[str, float | None] = {}
    for way in ways:
        try:
            drawn, seconds[way.name] = retoucher.draw(way, people)
        except BadInput as error:  # a way that this base, or one of the photos, does not take
            failures.append(f"{way.name}: {error}")
            continue
        values[way.name], shown[way.name] = meters.measure(drawn), drawn
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            **{key: protocol.interval(one.mean(axis=1)) for key, one in measured.items()},
            **{f"success {a}": float(measured["success"][:, n].mean()) for n, a in enumerate(attributes)},
            "seconds": seconds.get(name),
        }
        for name, measured in values.items()
    ]
    strangers = {judge.name: meters.strangers(judge) for judge in judges}
    return Report(
        kind="editing",
        settings=protocol.record(
            {
                "photos": len(people),
                "steps": steps,
                "guidance": guidance,
                "batch": batch,
                "ways": {way.name: repr(way) for way in ways},
                **(settings or {}),
            }
        ),
        weights={
            **retoucher.weights,
            **tools_sha256(finder, judges, classifier),
            "mini-vit": network_sha256(),
        },
        rows=rows,
        people=[
            {
                "photo": person.photo.file,
                "source": person.source,
                **{
                    way: {key: np.round(one[n], 4) for key, one in measured.items()}
                    for way, measured in values.items()
                },
            }
            for n, person in enumerate(people)
        ],
        table=_table(rows, attributes, [judge.name for judge in judges]),
        notes=[
            f"{len(people)} photos x {len(attributes)} edits; likeness of two different people: "
            + ", ".join(f"{name} {value:.3f}" for name, value in strangers.items())
        ],
        failures=failures,
        sheet=contact_sheet(
            [[person.picture, *one[n]] for n, person in enumerate(people[:8]) for one in shown.values()],
            columns=["photo", *attributes],
            names=[name for _ in people[:8] for name in shown],
        ),
    )


class _Meters:
    """What is measured of edits [people][attributes], as float arrays of that shape."""

    def __init__(
        self,
        people: Sequence[Sitter],
        attributes: Sequence[str],
        judges: Sequence[Judge],
        classifier: AttributeClassifier,
        finder: Finder,
    ):
        self.people, self.attributes, self.judges = people, attributes, judges
        self.classifier, self.finder = classifier, finder
        self.wanted = np.array([[turn(p.attributes, a)[1] for a in attributes] for p in people])
        self.known = {
            judge.name: _unit(judge.embed([p.picture for p in people], [p.keypoints for p in people]))
            for judge in judges
        }

    def measure(self, drawn: Sequence[Sequence[Image.Image]]) -> dict[str, np.ndarray]:
        flat = [picture for pictures in drawn for picture in pictures]
        said = self.classifier.probabilities(flat).reshape(len(self.people), len(self.attributes), -1)
        columns = [self.classifier.labels.index(name) for name in self.attributes]
        there = np.stack([said[:, n, column] > 0.5 for n, column in enumerate(columns)], axis=1)
        faces = [self.finder.find(picture) for picture in flat]
        found: dict[str, np.ndarray] = {"success": there == self.wanted}
        seen = [n for n, face in enumerate(faces) if face is not None]
        for judge in self.judges:
            likeness = np.zeros(len(flat))
            points = [face.keypoints for face in faces if face is not None]
            if seen:
                rows = _unit(judge.embed([flat[n] for n in seen], points))
                owners = self.known[judge.name][np.array(seen) // len(self.attributes)]
                likeness[seen] = (rows * owners).sum(axis=1)
            found[judge.name] = likeness.reshape(self.wanted.shape)
        pairs = [(p, picture) for p, pictures in zip(self.people, drawn, strict=True) for picture in pictures]
        background = [psnr(p.picture, picture, p.background) for p, picture in pairs]
        features = [feature_distance(p.picture, picture) for p, picture in pairs]
        found["background"] = np.array(background).reshape(self.wanted.shape)
        found["features"] = np.array(features).reshape(self.wanted.shape)
        return {key: one.astype(np.float64) for key, one in found.items()}

    def strangers(self, judge: Judge) -> float:
        """Mean likeness of photos of different people."""
        rows = self.known[judge.name]
        table = rows @ rows.T
        return float(table[~np.eye(len(rows), dtype=bool)].mean()) if len(rows) > 1 else 0.0


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _table(rows: Sequence[Mapping[str, Any]], attributes: Sequence[str], judges: Sequence[str]) -> str:
    header = ["", "success, %", *attributes, *(f"likeness, {name}" for name in judges)]
    header += ["background, dB", "feature distance", "seconds for a photo"]
    return markdown(
        header,
        [
            [
                row["way"],
                cell(row["success"], percent=True),
                *(cell(row[f"success {name}"], percent=True) for name in attributes),
                *(cell(row[name]) for name in judges),
                cell(row["background"], 1),
                cell(row["features"]),
                cell(row["seconds"], 1),
            ]
            for row in rows
        ],
    )
