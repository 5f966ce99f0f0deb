"""From pictures to identity scores per person, by one judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from idpersona.eval.finders import Finder, Found
from idpersona.eval.judges import Judge
from idpersona.eval.metrics import cosines, normalise, own_and_others, person_means, prototype, rank_one
from idpersona.eval.progress import track
from idpersona.eval.protocol import Protocol
from idpersona.eval.statistics import Interval
from idpersona.eval.subjects import Subject


@dataclass(frozen=True)
class Sitting:
    """Pictures of one row with the face found in each, and the number of the person each one shows."""

    name: str
    pictures: list[Image.Image]
    owners: np.ndarray
    faces: list[Found | None]


def sit(
    name: str, pictures: list[Image.Image], owners: Sequence[int], finder: Finder, *, quiet: bool
) -> Sitting:
    """Look for the face of every picture once, for all judges."""
    watched = track(pictures, f"finding faces ({name})", total=len(pictures), quiet=quiet)
    return Sitting(name, pictures, np.asarray(owners), [finder.find(picture) for picture in watched])


@dataclass(frozen=True)
class IdentityScores:
    """Values per person, float [people]; see :mod:`idpersona.eval.metrics` for the definitions."""

    own: np.ndarray
    reference: np.ndarray
    others: np.ndarray
    rank1: np.ndarray
    detection: np.ndarray
    own_when_found: float | None
    """Mean own cosine of the pictures with a face (None: no face at all), to be read beside ``own``."""

    def intervals(self, protocol: Protocol) -> dict[str, Interval]:
        """Mean and interval over people of each score and of own - others."""
        values = {
            "own": self.own,
            "reference": self.reference,
            "others": self.others,
            "own_minus_others": self.own - self.others,
            "rank1": self.rank1,
            "detection": self.detection,
        }
        return {name: protocol.interval(value) for name, value in values.items()}


@dataclass(frozen=True)
class Known:
    """What a judge knows of the people, normalised, float [people, dim] each."""

    prototypes: np.ndarray
    """Mean of each one's other photos."""
    references: np.ndarray
    """The photo from which the identity is read."""


def known_people(subjects: Sequence[Subject], judge: Judge) -> Known:
    """Look at each subject's reference and other photos."""
    photos = [photo for subject in subjects for photo in (subject.reference, *subject.others)]
    embeddings = judge.embed([p.image for p in photos], [p.keypoints for p in photos])
    ends = np.cumsum([1 + len(subject.others) for subject in subjects])
    each = np.split(embeddings, ends[:-1])
    return Known(
        prototypes=np.stack([prototype(rows[1:]) for rows in each]),
        references=normalise(np.stack([rows[0] for rows in each])),
    )


def score(sitting: Sitting, judge: Judge, known: Known, protocol: Protocol) -> IdentityScores:
    """Scores of one row by one judge; the gallery shrinks to the number of people when there are fewer."""
    people = len(known.prototypes)
    found = np.array([face is not None for face in sitting.faces])
    embeddings = np.zeros((len(found), known.prototypes.shape[1]), np.float32)
    if found.any():
        seen = [
            (p, f.keypoints) for p, f in zip(sitting.pictures, sitting.faces, strict=True) if f is not None
        ]
        embeddings[found] = judge.embed([p for p, _ in seen], [k for _, k in seen])
    table = cosines(embeddings, known.prototypes)
    own, others = own_and_others(table, sitting.owners)
    reference = (normalise(embeddings) * known.references[sitting.owners]).sum(axis=1)
    gallery = min(protocol.gallery, people)
    hits = rank_one(
        table, sitting.owners, found, gallery=gallery, galleries=protocol.galleries, seed=protocol.seed
    )
    return IdentityScores(
        own=person_means(own, sitting.owners, people),
        reference=person_means(reference, sitting.owners, people),
        others=person_means(others, sitting.owners, people),
        rank1=person_means(hits, sitting.owners, people),
        detection=person_means(found.astype(np.float64), sitting.owners, people),
        own_when_found=float(own[found].mean()) if found.any() else None,
    )
