"""A face's descriptor as a differentiable function of a picture, for losses on drawn faces.

dlib's own network (:mod:`idpersona.encoders.dlib_face`) gives no gradients. A small one, distilled from it by
the recipe ``face-descriptor``, does; how near it comes to dlib is told by its model card. It is no judge:
what is trained with it, or is conditioned on dlib, must be measured by another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.checkpoint import load_component
from idpersona.encoders.alignment import ARCFACE_TEMPLATE, similarity_transform
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import BadInput
from idpersona.registry import locate


class FaceDescriptor(nn.Module):
    """Pictures and keypoints to descriptors.

    Args:
        network: RGB crops [B, 3, side, side] in [-1, 1], aligned to the ArcFace template, to [B, dim].
    """

    def __init__(self, network: SmallFaceCNN):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Self:
        """The embedded weights ``face-descriptor``, or those in ``folder``; float32, frozen, on the CPU.

        Raises:
            MissingWeights: the embedded weights are not there.
            CheckpointError: what lies there is no such network.
        """
        network: Any = load_component(SmallFaceCNN, Path(folder or locate("face-descriptor")))
        return cls(network.float())

    @property
    def side(self) -> int:
        """Width and height of an aligned crop in pixels."""
        return int(self.network.config["side"])

    def forward(self, pictures: Tensor, keypoints: Sequence[Any] | np.ndarray) -> Tensor:
        """Descriptors [B, 128] less the mean of many people: compare them by their cosine.

        Args:
            pictures: RGB float [B, 3, H, W] in [-1, 1]; gradients flow through them.
            keypoints: [B, 5, 2] pixels of the pictures; they are constants.

        Raises:
            BadInput: not one set of keypoints for each picture, or keypoints that cannot be aligned.
        """
        return self.network(aligned(pictures, keypoints, self.side))


def aligned(pictures: Tensor, keypoints: Sequence[Any] | np.ndarray, side: int) -> Tensor:
    """Crops [B, 3, side, side] at the ArcFace template, as :func:`~idpersona.encoders.alignment.align` cuts
    them (edges repeated), differentiable in ``pictures`` [B, 3, H, W].

    Raises:
        BadInput: as for :meth:`FaceDescriptor.forward`.
    """
    if pictures.ndim != 4 or len(keypoints) != len(pictures):
        raise BadInput(
            f"{len(keypoints)} sets of keypoints for pictures of shape {tuple(pictures.shape)}: give one for "
            "each picture [B, 3, H, W]"
        )
    height, width = pictures.shape[-2:]
    template = ARCFACE_TEMPLATE * (side / 112)
    picture, crop = _to_unit(width, height), _to_unit(side, side)
    places = []
    for points in keypoints:
        values = points.detach().cpu().numpy() if isinstance(points, Tensor) else points
        forth = np.vstack([similarity_transform(values, template), [0.0, 0.0, 1.0]])
        places.append((picture @ np.linalg.inv(forth) @ np.linalg.inv(crop))[:2])
    theta = torch.from_numpy(np.stack(places)).to(pictures)
    grid = F.affine_grid(theta, [len(pictures), 3, side, side], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _to_unit(width: int, height: int) -> np.ndarray:
    """From pixels, whose centres are whole numbers, to ``grid_sample``'s -1..1: float64 [3, 3]."""
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
