"""Encoders that read an aligned face and have no detector of their own.

A *network* turns pictures of one size into rows (tokens of a ViT, a W+ code); a *crop* says where the face
stands in them. Faces are found by another encoder, whose keypoints align them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from idpersona.encoders.alignment import align, ffhq_face, frame_face
from idpersona.encoders.base import Face, FaceEncoder, Faces, Measure
from idpersona.encoders.catalogue import get_encoder
from idpersona.encoders.masks import head_mask
from idpersona.encoders.subject import BACKGROUND


class Network(Protocol):
    """Pictures in, rows out."""

    @property
    def side(self) -> int:
        """Width and height of a picture in pixels."""
        ...

    @property
    def tokens(self) -> int:
        """Rows of one picture."""
        ...

    @property
    def dim(self) -> int:
        """Length of a row."""
        ...

    @property
    def weights_sha256(self) -> str: ...

    @property
    def provider(self) -> str: ...

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [n, tokens, dim] of RGB pictures."""
        ...


@dataclass(frozen=True)
class Crop:
    """How a face is cut out of a photo: ``cut(photo, keypoints, side)``, and what is said of it."""

    cut: Callable[[Image.Image, np.ndarray, int], Image.Image]
    description: str


def eyes_at(eye_distance: float, eye_line: float) -> Crop:
    """Framed by the eyes: see :func:`~idpersona.encoders.alignment.frame_face`."""

    def cut(photo: Image.Image, keypoints: np.ndarray, side: int) -> Image.Image:
        return frame_face(photo, keypoints, side, eye_distance=eye_distance, eye_line=eye_line)

    return Crop(cut, f"face framed by its eyes (distance {eye_distance}, line {eye_line})")


def arcface() -> Crop:
    """At the ArcFace template, as InsightFace's own crop."""
    return Crop(lambda photo, keypoints, side: align(photo, keypoints, side), "ArcFace template")


def ffhq_head() -> Crop:
    """FFHQ's alignment, all but the head painted white.

    The published W+ adapter takes the background out by a face parsing network; an ellipse around the head
    stands in for it here.
    """

    def cut(photo: Image.Image, keypoints: np.ndarray, side: int) -> Image.Image:
        mask = Image.fromarray((head_mask(photo.size, keypoints) * 255).astype(np.uint8))
        # Beyond the photo's border there is no head, although its last pixels are repeated there.
        cut_mask = ffhq_face(mask, keypoints, side, beyond_edges=0).convert("L")
        white = Image.new("RGB", (side, side), BACKGROUND)
        return Image.composite(ffhq_face(photo, keypoints, side), white, cut_mask)

    return Crop(cut, "FFHQ alignment, head on white")


class AlignedFace:
    """A face encoder out of a network and a crop.

    Args:
        name: in the registry.
        network, crop: see the module's docstring.
        finder: name of the face encoder that finds faces when this one is asked alone.
        licence: of the weights.
    """

    normalised = False
    comparable = False
    measure: Measure = "cosine"
    threshold = 1.0

    def __init__(self, name: str, network: Network, crop: Crop, *, licence: str, finder: str = "dlib"):
        self.name, self.network, self.crop = name, network, crop
        self.finder, self.licence = finder, licence

    @property
    def sure_score(self) -> float:
        """The finder's: from which score on it is sure that something is a face."""
        finder: Any = get_encoder(self.finder)
        return finder.sure_score

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def tokens(self) -> int:
        return self.network.tokens

    @property
    def weights_sha256(self) -> str:
        return self.network.weights_sha256

    @property
    def preprocessing(self) -> str:
        return f"RGB, {self.crop.description}, {self.network.side} px"

    @property
    def provider(self) -> str:
        return self.network.provider

    def nothing(self) -> np.ndarray:
        """float32 [tokens, dim] of a picture of zeros, which stands for nobody."""
        network: Any = self.network
        return network.nothing()

    def detect(self, image: Image.Image) -> Faces:
        """The finder's faces."""
        finder: Any = get_encoder(self.finder)
        assert isinstance(finder, FaceEncoder)
        return finder.detect(image)

    def embed(self, image: Image.Image, face: Face) -> np.ndarray:
        """float32 [tokens, dim] of one face."""
        return self.embed_many([image], [face])[0]

    def embed_many(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """float32 [n, tokens, dim]: one face of each photo."""
        pairs = zip(images, faces, strict=True)
        return self.network(
            [self.crop.cut(image, face.keypoints, self.network.side) for image, face in pairs]
        )
