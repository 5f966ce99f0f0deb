"""The face photos the embedded models are trained on, as arrays in memory.

``prepare.py`` reads the archives once and writes the cache that is opened here. Nothing of it is shipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from idpersona.errors import MissingWeights
from idpersona.training.data.archives import SOURCES, data_root
from idpersona.training.data.framing import SIDE, frame_pixels
from idpersona.training.data.split import load_split

Part = Literal["train", "validation", "all"]
"""Of the split; nobody is in both ``train`` and ``validation``."""

# Wild photos are the sharpest; the aligned ones are enlarged twice by the framing.
_SOURCE_WEIGHT = {"celeba_wild": 2.0, "lfw": 1.0, "celeba_aligned": 0.4}
LOW_QUALITY_SOURCES = frozenset({"celeba_aligned"})


def cache_root() -> Path:
    """Folder of what is derived from the archives: ``IDPERSONA_CACHE``, or one under ``~/.cache``."""
    return Path(os.environ.get("IDPERSONA_CACHE", Path.home() / ".cache" / "idpersona" / "training"))


@dataclass(frozen=True)
class FaceData:
    """Photos of one part of the split.

    Attributes:
        files: names as in ``faces.csv.gz``, str [N].
        sources: index into SOURCES, uint8 [N].
        identities: person keys, str [N].
        attributes: 1, 0 or -1 (unknown), int8 [N, 40]; names in ``attribute_names``.
        keypoints: five points in pixels of the photo, float32 [N, 5, 2].
        descriptors: dlib descriptors, float32 [N, 128].
        photos: per source the pixel array uint8 [n, H, W, 3] (memory-mapped), and each row's place in it.
    """

    files: np.ndarray
    sources: np.ndarray
    identities: np.ndarray
    attributes: np.ndarray
    attribute_names: tuple[str, ...]
    keypoints: np.ndarray
    descriptors: np.ndarray
    places: np.ndarray
    photos: tuple[np.ndarray, ...]

    @classmethod
    def open(cls, part: Part) -> FaceData:
        """Open the cache; photos in which no face was found are in no part.

        ``train`` leaves out the people of ``validation``, and photos that look like one of them.

        Raises MissingWeights naming the command that builds the cache.
        """
        root = cache_root()
        if not (root / "faces.npz").is_file():
            raise MissingWeights(
                f"no prepared photos in {root}: run `python -m idpersona.training.data.prepare`, "
                f"which reads {data_root()}"
            )
        table = np.load(root / "faces.npz")
        keep = table["found"].copy()
        if part != "all":
            split = load_split()
            held_out = np.isin(table["identities"], sorted(split.validation))
            dropped = np.isin(table["files"], sorted(split.dropped))
            keep &= held_out if part == "validation" else ~held_out & ~dropped
        columns = {
            k: table[k][keep]
            for k in ("files", "sources", "identities", "attributes", "keypoints", "descriptors", "places")
        }
        photos = tuple(np.load(root / f"{source}.npy", mmap_mode="r") for source in SOURCES)
        return cls(**columns, attribute_names=tuple(table["attribute_names"].tolist()), photos=photos)

    def __len__(self) -> int:
        return len(self.files)

    def photo(self, row: int) -> np.ndarray:
        """Pixels uint8 [H, W, 3] of one photo."""
        return np.asarray(self.photos[self.sources[row]][self.places[row]])

    def framed(self, row: int, size: int = SIDE) -> np.ndarray:
        """One photo in the standard framing, uint8 [size, size, 3]."""
        return frame_pixels(self.photo(row), self.keypoints[row], size)[0]

    def framed_random(
        self, row: int, rng: np.random.Generator, *, wide: bool | None = None, size: int = SIDE
    ) -> tuple[np.ndarray, np.ndarray]:
        """One photo in a random framing, and its keypoints there: uint8 [size, size, 3], float32 [5, 2].

        Usually close to the standard framing, with ``wide`` over the whole range of poses; None draws which.
        """
        if wide is None:
            wide = bool(rng.random() < 0.4)
        shift, zoom, roll = (0.14, 0.30, 23.0) if wide else (0.025, 0.05, 4.0)
        return frame_pixels(
            self.photo(row),
            self.keypoints[row],
            size,
            shift=(float(rng.uniform(-shift, shift)), float(rng.uniform(-shift, shift))),
            scale=float(rng.uniform(1 - zoom, 1 + 0.8 * zoom)),
            roll_degrees=float(rng.uniform(-roll, roll)),
            flip=bool(rng.random() < 0.5),
        )


def sampling_weights(faces: FaceData, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Cumulative probability of each row, float64 [N]: ``searchsorted(weights, u)`` draws one."""
    sources = faces.sources if rows is None else faces.sources[np.asarray(rows)]
    weight = np.array([_SOURCE_WEIGHT[s] for s in SOURCES])[sources]
    total = np.cumsum(weight)
    return total / total[-1]
