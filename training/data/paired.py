"""Batches from a dataset that ``idpersona dataset build`` made: photos, captions, and who is in them.

Everything is keyed by (seed, step, sample), as it is for the embedded model's own photos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from idpersona.errors import BadInput
from idpersona.images import open_photo
from idpersona.training.data.builder.table import PhotoRow, read_pairs, read_photos
from idpersona.training.data.builder.vectors import read_rows
from idpersona.training.data.framing import flip_points, frame_pixels

Crop = Literal["face", "window"]


class PairedPhotos:
    """A dataset, read for training.

    Args:
        folder: of the dataset.
        size: width and height of the pictures.
        crop: ``window`` takes the largest part of a photo that has the face in it, anywhere; ``face`` cuts
            the face out, upright, as the embedded model wants it.

    Attributes:
        encoder: name of the face encoder that the dataset was built with.
        descriptors: its embeddings, float32 [N, D].
        targets: numbers of the photos that another photo of the same person is paired with.

    Raises:
        BadInput: there is no dataset, it is damaged, holds no pairs, or embeddings of several encoders.
    """

    def __init__(self, folder: str | Path, size: tuple[int, int], crop: Crop = "window"):
        self.folder, self.size, self.crop = Path(folder), size, crop
        if crop == "face" and size[0] != size[1]:
            raise BadInput(f"objective.crop face gives square pictures, not {size[0]}x{size[1]}")
        self.photos: list[PhotoRow] = read_photos(self.folder)
        place = {row.file_name: n for n, row in enumerate(self.photos)}
        self.references: dict[int, list[int]] = {}
        for pair in read_pairs(self.folder):
            if pair.target not in place or pair.reference not in place:
                raise BadInput(f"{folder}: a pair names a photo that is not in its table: build it again")
            self.references.setdefault(place[pair.target], []).append(place[pair.reference])
        if not self.references:
            raise BadInput(f"{folder} holds no two photos of one person: a training needs some")
        self.targets = np.array(sorted(self.references), dtype=np.int64)
        # Names are embeddings-ENCODER-HASH-NUMBER.
        found = {path.stem.rsplit("-", 1)[0] for path in self.folder.glob("embeddings-*.safetensors")}
        if len(found) != 1:
            raise BadInput(
                f"{folder} holds embeddings of {len(found)} encoders, one is wanted: build it again"
            )
        (name,) = found
        self.encoder = name.removeprefix("embeddings-").rsplit("-", 1)[0]
        rows = read_rows(self.folder, f"{name}-*.safetensors", [row.sha256 for row in self.photos])
        self.descriptors = rows["embeddings"].astype(np.float32)

    def __len__(self) -> int:
        return len(self.photos)

    def draw_reference(self, row: int, rng: np.random.Generator) -> int:
        """Another photo of the person in photo ``row``."""
        return int(rng.choice(self.references[row]))

    def picture(self, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One photo in a random framing, and its keypoints there: uint8 [H, W, 3], float32 [5, 2] pixels.

        Raises PhotoError when the photo cannot be read.
        """
        about = self.photos[row]
        image = open_photo(self.folder / about.file_name)
        points = np.array(about.landmarks, np.float64)
        flip = bool(rng.random() < 0.5)
        if self.crop == "face":
            varied: dict[str, Any] = {
                "shift": (float(rng.uniform(-0.025, 0.025)), float(rng.uniform(-0.025, 0.025))),
                "scale": float(rng.uniform(0.95, 1.05)),
                "roll_degrees": float(rng.uniform(-4, 4)),
            }
            return frame_pixels(np.asarray(image), points, self.size[0], **varied, flip=flip)
        return self._window(image, about, points, flip=flip, place=rng.random(2))

    def _window(
        self, image: Image.Image, about: PhotoRow, points: np.ndarray, *, flip: bool, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        width, height = self.size
        scale = max(width / image.width, height / image.height)
        wide = np.array([width, height]) / scale
        free = np.maximum(np.array(image.size) - wide, 0)
        face = np.array(about.bbox)
        # The corners at which the window has all of the face in it; its middle where it is too large.
        low, high = np.clip(face[2:] - wide, 0, free), np.clip(face[:2], 0, free)
        corner = np.where(low <= high, low + place * (high - low), np.clip((low + high) / 2, 0, free))
        box = (*corner.tolist(), *(corner + wide).tolist())
        cut = image.resize(self.size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        points = (points + 0.5 - corner) * scale - 0.5
        pixels = np.asarray(cut)
        if flip:
            pixels, points = pixels[:, ::-1], flip_points(points * [-1, 1] + [width - 1, 0])
        return np.ascontiguousarray(pixels), points.astype(np.float32)
