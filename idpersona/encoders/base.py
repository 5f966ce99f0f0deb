"""What every encoder offers, and the words they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from idpersona.errors import BadInput

Measure = Literal["cosine", "1 - L2 distance"]


@dataclass(frozen=True, eq=False)
class Face:
    """A face found in a photo.

    Attributes:
        box: ``(x0, y0, x1, y1)`` in pixels of the photo; may reach beyond its border.
        keypoints: float32 ``[5, 2]`` pixels: eyes, nose tip, corners of the mouth, left in the picture first.
        score: confidence of the detector; comparable within one encoder only.
        embedding: float32 ``[dim]`` where the detector already made it, else None.
    """

    box: tuple[float, float, float, float]
    keypoints: np.ndarray
    score: float
    embedding: np.ndarray | None = None

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return self.width * self.height


class Faces(list[Face]):
    """Faces of one photo, largest area first; ``sizes_tried`` are the sizes (pixels) it was looked at."""

    def __init__(self, faces: Iterable[Face] = (), sizes_tried: Sequence[int] = ()):
        super().__init__(sorted(faces, key=lambda face: -face.area))
        self.sizes_tried = tuple(dict.fromkeys(sizes_tried))


@runtime_checkable
class FaceEncoder(Protocol):
    """Finds faces and turns one into a vector that says whose it is.

    Attributes:
        name: in the registry.
        dim: length of an embedding.
        normalised: True when embeddings have length 1.
        weights_sha256: of the recognition weights in use (hex).
        licence: of the weights.
        preprocessing: name of the recipe from photo to network input.
        measure: how two embeddings compare; larger is always more alike.
        threshold: value of ``measure`` from which two photos count as one person.
        sure_score: a face of a lower score may be none.
        provider: what the network really runs on.
    """

    name: str
    dim: int
    normalised: bool
    weights_sha256: str
    licence: str
    preprocessing: str
    measure: Measure
    threshold: float
    sure_score: float

    @property
    def provider(self) -> str: ...

    def detect(self, image: Image.Image) -> Faces:
        """All faces of an RGB photo, largest first; empty when there is none."""
        ...

    def embed(self, image: Image.Image, face: Face) -> np.ndarray:
        """float32 ``[dim]`` of one face of the photo."""
        ...

    def embed_many(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """float32 ``[n, dim]``: one face of each photo."""
        ...


@runtime_checkable
class ObjectEncoder(Protocol):
    """Turns a whole photo of any subject into a vector; attributes as in :class:`FaceEncoder`."""

    name: str
    dim: int
    normalised: bool
    weights_sha256: str
    licence: str
    preprocessing: str
    measure: Measure
    threshold: float

    @property
    def provider(self) -> str: ...

    def embed_image(self, image: Image.Image) -> np.ndarray:
        """float32 ``[n, dim]`` of an RGB photo."""
        ...


Encoder = FaceEncoder | ObjectEncoder


def tells_people_apart(encoder: Encoder) -> bool:
    """Whether ``measure`` and ``threshold`` mean anything: not for encoders of many tokens or of codes."""
    return getattr(encoder, "comparable", True)


def compare_vectors(a: np.ndarray, b: np.ndarray, measure: Measure) -> float:
    """Likeness of two vectors ``[dim]`` by ``measure``; larger is more alike, 1 is equal."""
    a64, b64 = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if measure == "1 - L2 distance":
        return float(1.0 - np.linalg.norm(a64 - b64))
    lengths = float(np.linalg.norm(a64) * np.linalg.norm(b64))
    if lengths == 0:
        raise BadInput("cannot compare an embedding of zeros")
    return float(a64 @ b64 / lengths)


def overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (a.area + b.area - common)


def strongest(faces: Iterable[Face]) -> list[Face]:
    """Without the faces that a face of a higher score overlaps by 0.3 or more; highest score first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(overlap(face, other) < 0.3 for other in kept):
            kept.append(face)
    return kept
