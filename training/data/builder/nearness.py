"""Which photos show faces near to each other, in the space in which an encoder's threshold holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from idpersona.errors import BadInput, UnknownName
from idpersona.safety.thresholds import Measure, get_threshold, measure_of

_TILE = 2048


@dataclass(frozen=True)
class Space:
    """Points whose plain distance (L2) tells people apart.

    Attributes:
        measure: the encoder's: ``l2`` between embeddings as they are, or ``cosine`` (1 - cosine).
        same_person: distance in that measure up to which two photos count as one person.
        calibrated: whether that number is the encoder's calibrated one.
    """

    measure: Measure
    same_person: float
    calibrated: bool

    @property
    def limit(self) -> float:
        """The same as a plain distance between ``points``."""
        return self.same_person if self.measure == "l2" else float(np.sqrt(2 * self.same_person))

    def points(self, vectors: np.ndarray) -> np.ndarray:
        """Embeddings float32 [n, dim] as points; of length 1 for the cosine."""
        if self.measure == "l2":
            return np.asarray(vectors, np.float32)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)

    def distance(self, plain: np.ndarray) -> np.ndarray:
        """Plain distances in the encoder's measure."""
        return plain if self.measure == "l2" else plain**2 / 2


def encoder_space(encoder: str, same_person: float | None) -> Space:
    """The space of an encoder; ``same_person`` replaces its calibrated threshold.

    Raises:
        BadInput: the encoder was never calibrated and no threshold is given.
    """
    if same_person is not None:
        return Space(measure_of(encoder), same_person, calibrated=False)
    try:
        return Space(measure_of(encoder), get_threshold(encoder).distance, calibrated=True)
    except UnknownName as error:
        raise BadInput(
            f"encoder '{encoder}' has no calibrated threshold for one person: give --same-person DISTANCE or "
            f"calibrate it with python -m idpersona.eval.threshold --encoder {encoder}"
        ) from error


@dataclass(frozen=True)
class Neighbours:
    """Pairs of points: ``first`` < ``second`` int64 [m], sorted, and their plain distance float64 [m]."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def among(self, keep: np.ndarray) -> Neighbours:
        """Pairs of those for which ``keep`` bool [n] is set, numbered among themselves."""
        number = np.cumsum(keep) - 1
        both = keep[self.first] & keep[self.second]
        return Neighbours(number[self.first[both]], number[self.second[both]], self.distance[both])


def neighbours(points: np.ndarray, limit: float) -> Neighbours:
    """All pairs of points float32 [n, dim] at most ``limit`` apart.

    Candidates are found by products of matrices, tile by tile; the distance of each is then computed from its
    own two points alone, so that the result does not depend on how a machine adds up such products.
    """
    squares = np.einsum("nd,nd->n", points, points)
    # Far more than such products err, far less than would let many candidates in.
    most = limit**2 + 1e-4 * max(float(squares.max(initial=0.0)), limit**2)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for top in range(0, len(points), _TILE):
        for left in range(top, len(points), _TILE):
            a, b = points[top : top + _TILE], points[left : left + _TILE]
            table = squares[top : top + _TILE, None] + squares[None, left : left + _TILE] - 2 * (a @ b.T)
            rows, columns = np.nonzero(table <= most)
            first, second = rows + top, columns + left
            first, second = first[first < second], second[first < second]
            apart = points[first].astype(np.float64) - points[second]
            distance = np.sqrt((apart * apart).sum(axis=1))
            near = distance <= limit
            parts.append((first[near], second[near], distance[near]))
    if not parts:
        return Neighbours(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    first, second, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((second, first))
    return Neighbours(first[order], second[order], distance[order])
