"""A judge of identity: a face encoder that conditions nothing and enters no loss, so that its word counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from idpersona.encoders.alignment import align
from idpersona.hashing import weights_sha256
from idpersona.registry import locate

MINI_JUDGE = "mini-judge"
_BATCH = 64


@dataclass(frozen=True)
class Judge:
    """A face encoder with its preprocessing.

    Attributes:
        name: registry name; every number says which judge gave it.
        module: float [B, 3, H, W] RGB -> float [B, dim].
        size: side of the five-point alignment (the ArcFace template, enlarged or reduced), pixels.
        columns: first and last+1 column kept of the alignment (SphereFace's 96x112 is the middle of 112x112).
        scale: pixel values become ``(value - 127.5) / scale``.
        ships: whether the weights are part of the project.
    """

    name: str
    module: torch.nn.Module
    size: int
    columns: tuple[int, int]
    scale: float
    weights_sha256: str
    licence: str
    ships: bool

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image], keypoints: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings float32 [images, dim], not normalised, of RGB images with the five points of one face
        each.
        """
        rows = []
        for start in range(0, len(images), _BATCH):
            pairs = zip(images[start : start + _BATCH], keypoints[start : start + _BATCH], strict=True)
            pixels = np.stack([self._crop(image, points) for image, points in pairs])
            batch = torch.from_numpy((pixels.astype(np.float32) - 127.5) / self.scale).permute(0, 3, 1, 2)
            rows.append(self.module(batch.contiguous()).float().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)

    def _crop(self, image: Image.Image, points: np.ndarray) -> np.ndarray:
        # Edge pixels are repeated: beyond a close crop lies nothing, and black would count as evidence.
        whole = np.asarray(align(image, points, self.size, repeat_edges=True))
        return whole[:, self.columns[0] : self.columns[1]]


def mini_judge() -> Judge:
    """The judge that ships; it was trained on training people only."""
    from idpersona.checkpoint import load_component
    from idpersona.encoders.small_cnn import SmallFaceCNN

    path = locate(MINI_JUDGE)
    module = load_component(SmallFaceCNN, path).float()
    licence = "research only, non-commercial (trained on CelebA and LFW)"
    return Judge(MINI_JUDGE, module, 64, (0, 64), 127.5, weights_sha256(path), licence, True)
