"""The identity loss of ``diffusion.py``: do estimated clean latents show the person asked for?

A frozen network reads dlib's descriptor from latents (recipe ``latent-descriptor``); the loss is 1 - cosine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from idpersona.checkpoint import load_component
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.training.weights import channels_last, require_folder


class Likeness:
    """How little the faces of latents are those of given people.

    Args:
        folder: of the network that reads descriptors; raises MissingWeights when nothing lies there.
        descriptors: float32 [N, D] of many people; the network's descriptors are less their mean.
    """

    def __init__(self, folder: str, descriptors: np.ndarray):
        path = require_folder(folder, "reader of descriptors", "latent-descriptor")
        reader: Any = channels_last(load_component(SmallFaceCNN, path).float().requires_grad_(False))
        self.reader = reader
        self.mean = torch.from_numpy(descriptors.mean(axis=0))

    def to_photos(self, estimate: Tensor, latents: Tensor, weight: Tensor) -> Tensor:
        """Against the faces in ``latents`` [B, C, h, w]; the mean of ``weight`` [B] * (1 - cosine)."""
        with torch.no_grad():
            wanted = self._read(latents)
        return self._unlike(estimate, wanted, weight)

    def to_descriptors(self, estimate: Tensor, descriptors: Tensor, weight: Tensor) -> Tensor:
        """Against ``descriptors`` [B, D]; rows of zeros, which stand for nobody, count nothing."""
        somebody = descriptors.any(dim=1).float()
        wanted = descriptors - self.mean.to(descriptors.device)
        return self._unlike(estimate, wanted, weight * somebody)

    def _unlike(self, estimate: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
        return (weight * (1 - F.cosine_similarity(self._read(estimate), wanted))).mean()

    def _read(self, latents: Tensor) -> Tensor:
        return self.reader.to(latents.device)(latents).float()
