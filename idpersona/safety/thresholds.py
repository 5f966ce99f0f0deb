"""When two descriptors count as one person: measure and calibrated distance per encoder.

The numbers lie in ``thresholds.json``; ``idpersona.eval.threshold`` makes them from photos. An encoder
without an entry cannot guard anything, and says so instead of guessing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from idpersona.errors import UnknownName

FILE = Path(__file__).with_name("thresholds.json")
Measure = Literal["l2", "cosine"]
MEASURES: dict[str, Measure] = {"dlib": "l2"}


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Calibrated decision of one encoder.

    Attributes:
        encoder: encoder name.
        measure: ``l2`` between raw descriptors, or ``cosine`` (1 - cosine).
        distance: at most this far from a person's centroid counts as the person.
        fmr: share of other people's photos that wrongly count as the person, measured.
        fnmr: share of the person's own photos that are missed, measured.
        pairs: impostor pairs behind ``fmr``.
        people: people behind both.
        groups: ``fmr`` within groups of people (impostors of the same group), for information.
    """

    encoder: str
    measure: Measure
    distance: float
    fmr: float
    fnmr: float
    pairs: int
    people: int
    groups: dict[str, float]


def measure_of(encoder: str) -> Measure:
    """Measure used for an encoder: L2 for dlib's raw descriptor, otherwise cosine."""
    return MEASURES.get(encoder, "cosine")


def centroid(rows: np.ndarray, measure: Measure) -> np.ndarray:
    """Centre of one person's descriptors ``[n, dim]`` -> float32 ``[dim]``.

    The mean of the rows for ``l2``; the normalised mean of the normalised rows for ``cosine``.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if measure == "l2":
        return rows.mean(axis=0).astype(np.float32)
    mean = _unit(rows).mean(axis=0)
    return _unit(mean[None])[0].astype(np.float32)


def distances(rows: np.ndarray, centroids: np.ndarray, measure: Measure) -> np.ndarray:
    """Distances ``[n, m]`` between descriptors ``[n, dim]`` and centroids ``[m, dim]``."""
    rows, centroids = np.asarray(rows, np.float64), np.asarray(centroids, np.float64)
    if measure == "l2":
        squares = (rows**2).sum(1)[:, None] + (centroids**2).sum(1)[None] - 2 * rows @ centroids.T
        return np.sqrt(np.maximum(squares, 0.0))
    return 1.0 - _unit(rows) @ _unit(centroids).T


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def load_thresholds(file: Path = FILE) -> dict[str, Threshold]:
    """All calibrated thresholds by encoder name."""
    entries: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return {name: Threshold(**entry) for name, entry in entries.items()}


def get_threshold(encoder: str) -> Threshold:
    """The calibrated threshold of an encoder.

    Raises:
        UnknownName: the encoder was never calibrated; the calibrated ones are named.
    """
    known = load_thresholds()
    if encoder not in known:
        raise UnknownName("calibrated encoder", encoder, known)
    return known[encoder]


def store_threshold(threshold: Threshold, file: Path = FILE) -> None:
    """Put one encoder's threshold into the JSON file, keeping the others."""
    entries = {name: asdict(entry) for name, entry in load_thresholds(file).items()} if file.exists() else {}
    entries[threshold.encoder] = asdict(threshold)
    file.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n", "utf-8")
