"""Pairs of photos of one person: a training is told photo A and draws photo B."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from idpersona.training.data.builder.nearness import Space


def make_pairs(
    files: Sequence[str], people: Sequence[str], points: np.ndarray, space: Space, most: int
) -> Iterator[dict[str, Any]]:
    """For each photo up to ``most`` others of the same person, as rows of ``pairs.jsonl``.

    ``reference`` is the photo to be told, ``target`` the one to be drawn, ``distance`` theirs in the
    encoder's measure. Which others are taken is drawn by a hash of the names: the same on every machine, and
    no photo is preferred.

    Args:
        files, people: of each photo.
        points: float32 [n, dim] in ``space``.
        most: references of one photo.
    """
    of_person: dict[str, list[int]] = {}
    for photo, person in enumerate(people):
        of_person.setdefault(person, []).append(photo)
    for target, person in enumerate(people):
        others = [photo for photo in of_person[person] if photo != target]
        if len(others) > most:
            others = sorted(sorted(others, key=lambda photo: _draw(files[photo], files[target]))[:most])
        for reference in others:
            apart = points[reference].astype(np.float64) - points[target]
            plain = np.sqrt((apart * apart).sum())
            yield {
                "reference": files[reference],
                "target": files[target],
                "identity": person,
                "distance": round(float(space.distance(plain)), 4),
            }


def _draw(reference: str, target: str) -> bytes:
    return hashlib.sha256(f"{reference}\n{target}".encode()).digest()
