"""The identity loss: do estimated clean latents show the person asked for? 1 - cosine of what is read.

``Likeness`` reads latents themselves (recipe ``latent-descriptor``), of one autoencoder only.
``FaceLikeness`` decodes them, cuts the face out where the target picture has it, and reads its pixels. That
the face is sought where the target's is makes the loss work at every noise level, without a detector on
half-drawn faces (WithAnyone, arXiv:2510.14975, aligns by ground truth). Neither is a judge: one imitates, the
other one is dlib's descriptor, which conditions what is trained.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from idpersona.checkpoint import load_component
from idpersona.encoders.differentiable import FaceDescriptor
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.training.keyed import StepKey
from idpersona.training.weights import channels_last, require_folder

Points = Tensor | None
_SHAKEN = 61
"""Stream of random numbers."""


class Decodes(Protocol):
    """A base, as far as it is needed here."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W] in [-1, 1]; gradients flow through."""
        ...


class IdentityLoss(Protocol):
    """``points``: keypoints [B, 5, 2] in pixels of the pictures that the latents stand for, where needed."""

    def to_photos(self, estimate: Tensor, latents: Tensor, weight: Tensor, points: Points = None) -> Tensor:
        """Against the faces in ``latents`` [B, C, h, w]; the mean of ``weight`` [B] * (1 - cosine)."""
        ...

    def to_descriptors(
        self, estimate: Tensor, descriptors: Tensor, weight: Tensor, points: Points = None
    ) -> Tensor:
        """Against ``descriptors`` [B, D]; rows of zeros, which stand for nobody, count nothing."""
        ...


class _Reading:
    """What both have in common; ``mean`` [D] is taken off descriptors, as it is off what networks read."""

    mean: Tensor

    def read(self, latents: Tensor, points: Points) -> Tensor:
        """Descriptors [B, D] less their mean; gradients flow to ``latents``."""
        raise NotImplementedError

    def to_photos(self, estimate: Tensor, latents: Tensor, weight: Tensor, points: Points = None) -> Tensor:
        with torch.no_grad():
            wanted = self.read(latents, points)
        return self._unlike(estimate, wanted, weight, points)

    def to_descriptors(
        self, estimate: Tensor, descriptors: Tensor, weight: Tensor, points: Points = None
    ) -> Tensor:
        somebody = descriptors.any(dim=1).float()
        wanted = descriptors - self.mean.to(descriptors.device)
        return self._unlike(estimate, wanted, weight * somebody, points)

    def _unlike(self, estimate: Tensor, wanted: Tensor, weight: Tensor, points: Points) -> Tensor:
        return (weight * (1 - F.cosine_similarity(self.read(estimate, points), wanted))).mean()


def shaken(points: Tensor, key: StepKey, amount: float) -> Tensor:
    """Keypoints [B, 5, 2] turned, scaled and shifted a little as a whole, by the key's random numbers.

    What convinces a network at one exact place alone convinces nobody else: a loss that reads a face at
    another place each time leaves less of that to be learnt (expectation over transformations,
    arXiv:1707.07397).

    Args:
        amount: standard deviation of the turn in radians, of the size's logarithm, and of each shift in
            distances between the eyes; 0 leaves them.
    """
    if not amount:
        return points
    turn, size, *shift = (amount * key.normal((4,), _SHAKEN).to(points)).T
    apart = (points[:, 1] - points[:, 0]).norm(dim=1)
    centre = points.mean(dim=1, keepdim=True)
    cos, sin = size.exp() * turn.cos(), size.exp() * turn.sin()
    moved = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
    place = centre + (torch.stack(shift, dim=1) * apart[:, None])[:, None]
    return (points - centre) @ moved + place


class Likeness(_Reading):
    """Reads latents.

    Args:
        folder: of the network that reads descriptors; raises MissingWeights when nothing lies there.
        descriptors: float32 [N, D] of many people; the network's descriptors are less their mean.
    """

    def __init__(self, folder: str, descriptors: np.ndarray):
        path = require_folder(folder, "reader of descriptors", "latent-descriptor")
        reader: Any = channels_last(load_component(SmallFaceCNN, path).float().requires_grad_(False))
        self.reader = reader
        self.mean = torch.from_numpy(descriptors.mean(axis=0))

    def read(self, latents: Tensor, points: Points) -> Tensor:
        return self.reader.to(latents.device)(latents).float()


class FaceLikeness(_Reading):
    """Decodes latents and reads the face at ``points`` by dlib's own network.

    Args:
        model: the base; its autoencoder decodes.
    """

    def __init__(self, model: Decodes):
        self.reader, self.model = FaceDescriptor.load(), model
        self.mean = self.reader.mean

    def read(self, latents: Tensor, points: Points) -> Tensor:
        assert points is not None
        return self.reader.to(latents.device)(self.model.decode(latents), points)
