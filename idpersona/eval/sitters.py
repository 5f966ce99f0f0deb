"""Held-out photos as the embedded model frames them, with the words for what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from idpersona.encoders.describe import describe, look
from idpersona.encoders.masks import head_mask
from idpersona.eval.finders import Finder
from idpersona.eval.protocol import Protocol
from idpersona.eval.subjects import Photo, one_photo_each
from idpersona.training.data.archives import PhotoStore


@dataclass(frozen=True)
class Sitter:
    """A photo in the model's framing: its face, what is in it, and the words for it.

    Attributes:
        photo: as it was found.
        picture, keypoints: framed.
        attributes: what the ``labeler`` sees, probabilities.
    """

    photo: Photo
    picture: Image.Image
    keypoints: np.ndarray
    attributes: Mapping[str, float]

    @property
    def source(self) -> str:
        """The words for it."""
        return describe(self.attributes)

    @property
    def background(self) -> np.ndarray:
        """1 outside of the head, float32 [height, width]."""
        return 1 - head_mask(self.picture.size, self.keypoints)


def sitters(
    protocol: Protocol,
    store: PhotoStore,
    finder: Finder,
    count: int,
    side: int,
    *,
    cache: Path | None = None,
    quiet: bool = False,
) -> tuple[list[Sitter], list[str]]:
    """``count`` held-out people, one photo each, framed as the embedded model's at ``side`` pixels."""
    photos, failures = one_photo_each(protocol, store, finder, count, cache=cache, quiet=quiet)
    found = []
    for photo in photos:
        picture, keypoints = photo.framed(side)
        found.append(Sitter(photo, picture, keypoints, look(picture)))
    return found, failures
