"""Judges of identity: face encoders that condition nothing and enter no loss, behind one registry.

A claim of likeness made with the encoder that conditioned the picture only says that the adapter copies that
encoder. ``mini-judge`` ships and was trained on training people only; ``mobilefacenet`` comes from elsewhere
and is used during development.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from idpersona.encoders.alignment import align
from idpersona.errors import UnknownName
from idpersona.eval.weights import development_weight
from idpersona.hashing import weights_sha256
from idpersona.registry import locate

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


def _mini_judge() -> Judge:
    from idpersona.checkpoint import load_component
    from idpersona.encoders.small_cnn import SmallFaceCNN

    path = locate("mini-judge")
    module = load_component(SmallFaceCNN, path).float()
    licence = "research only, non-commercial (trained on CelebA and LFW)"
    return Judge("mini-judge", module, 64, (0, 64), 127.5, weights_sha256(path), licence, True)


def _mobilefacenet() -> Judge:
    from idpersona.eval.mobilefacenet import MobileFaceNet

    path = development_weight("face_recognition/mobilefacenet_068.ckpt")
    module = MobileFaceNet.from_checkpoint(path)
    licence = "none stated; trained on CASIA-WebFace (research); development only"
    return Judge("mobilefacenet", module, 112, (8, 104), 128.0, weights_sha256(path), licence, False)


JUDGES: dict[str, Callable[[], Judge]] = {"mini-judge": _mini_judge, "mobilefacenet": _mobilefacenet}


def judge_names() -> list[str]:
    """Names of all judges, whether or not their weights are on this machine."""
    return sorted(JUDGES)


def get_judge(name: str) -> Judge:
    """A judge by name; raises UnknownName, or MissingWeights when its weights are not on this machine."""
    if name not in JUDGES:
        raise UnknownName("judge", name, JUDGES)
    return JUDGES[name]()
