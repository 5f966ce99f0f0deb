"""What a base's autoencoder leaves of a picture: the ceiling of everything the base can draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from idpersona.pipelines.inversion.photos import decode_latents, encode_pictures

_BATCH = 16


def roundtrip(pipe: Any, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Encode and decode RGB pictures (of one size) with ``pipe.vae``, deterministically.

    The mean of a KL autoencoder's distribution is decoded, not a sample of it.
    """
    decoded: list[Image.Image] = []
    for start in range(0, len(pictures), _BATCH):
        decoded += decode_latents(pipe, encode_pictures(pipe, pictures[start : start + _BATCH]))
    return decoded
