"""A face's descriptor as a differentiable function of a picture, for losses on drawn faces.

It is dlib's, by dlib's own weights in torch (:mod:`idpersona.encoders.dlib_torch`), of a face whose five
keypoints are known, where dlib looks for 68. It is no judge: what is trained with it, or is conditioned on
dlib, must be measured by another network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.encoders.alignment import ARCFACE_TEMPLATE, similarity_transform
from idpersona.encoders.dlib_face import RECOGNISER
from idpersona.encoders.dlib_torch import SIDE, DlibResNet
from idpersona.errors import BadInput
from idpersona.registry import locate

DLIB_TEMPLATE = np.array(
    [[47.2, 46.1], [99.9, 46.1], [73.4, 76.5], [49.5, 102.65], [97.7, 102.65]], dtype=np.float32
)
"""Where the five keypoints lie on average in dlib's face chips of 150 pixels: measured on 400 photos of the
training people, to whom dlib's own alignment by 68 landmarks was applied."""


class FaceDescriptor(nn.Module):
    """Pictures and keypoints to descriptors.

    On photos of people whom no model here was trained on (18,636 pairs, half of them of one person) these
    tell people apart with an area under the curve of 0.9973 and an accuracy of 0.978; dlib's own, which are
    aligned by 68 landmarks, with 0.9977 and 0.980. Their cosine to dlib's is 0.980.

    Args:
        network: as :meth:`DlibResNet.load` reads it.
    """

    mean: Tensor

    def __init__(self, network: DlibResNet):
        super().__init__()
        # The layout in which convolutions of this size run fastest, on CPUs and tensor cores.
        self.network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", mean_descriptor(), persistent=False)

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Self:
        """dlib's weights from ``folder``, else from the installed package; float32, frozen, on the CPU.

        Raises:
            MissingWeights: they are not there.
            CheckpointError: what lies there is no such network.
        """
        return cls(DlibResNet.load(Path(folder or locate("dlib")) / RECOGNISER))

    def forward(self, pictures: Tensor, keypoints: Sequence[Any] | np.ndarray) -> Tensor:
        """Descriptors [B, 128] less :func:`mean_descriptor`: compare them by their cosine.

        Args:
            pictures: RGB float [B, 3, H, W] in [-1, 1]; gradients flow through them.
            keypoints: [B, 5, 2] pixels of the pictures; they are constants.

        Raises:
            BadInput: not one set of keypoints for each picture, or keypoints that cannot be aligned.
        """
        # In full precision also within autocast: bf16 would blur what tells two people apart.
        with torch.autocast(pictures.device.type, enabled=False):
            return self.network(aligned(pictures.float(), keypoints, SIDE, DLIB_TEMPLATE)) - self.mean


def mean_descriptor() -> Tensor:
    """dlib's descriptor of nobody in particular: the mean over 23,824 photos, float32 [128].

    Descriptors of any two people lie close together beside it; their differences from it tell them apart.
    """
    return torch.tensor(json.loads((Path(__file__).parent / "dlib_mean.json").read_text()))


def aligned(
    pictures: Tensor,
    keypoints: Sequence[Any] | np.ndarray,
    side: int,
    template: np.ndarray | None = None,
) -> Tensor:
    """Crops [B, 3, side, side] with the keypoints at ``template``, as
    :func:`~idpersona.encoders.alignment.align` cuts them (edges repeated), differentiable in ``pictures``.

    Large faces are first made smaller by a whole factor, so that no pixel of them goes unseen.

    Args:
        pictures: float [B, 3, H, W].
        keypoints: [B, 5, 2] pixels.
        template: [5, 2] in pixels of the crop; None for ArcFace's.

    Raises:
        BadInput: as for :meth:`FaceDescriptor.forward`.
    """
    if pictures.ndim != 4 or len(keypoints) != len(pictures):
        raise BadInput(
            f"{len(keypoints)} sets of keypoints for pictures of shape {tuple(pictures.shape)}: give one for "
            "each picture [B, 3, H, W]"
        )
    wanted = ARCFACE_TEMPLATE * (side / 112) if template is None else template
    found = [p.detach().cpu().numpy() if isinstance(p, Tensor) else np.asarray(p) for p in keypoints]
    forth = [similarity_transform(points, wanted) for points in found]
    # Pixels of the picture to one of the crop, where that is fewest.
    factor = int(min((1 / np.hypot(*matrix[0, :2]) for matrix in forth), default=1.0))
    if factor > 1:
        pictures = F.avg_pool2d(pictures, factor)
        forth = [similarity_transform((points + 0.5) / factor - 0.5, wanted) for points in found]
    height, width = pictures.shape[-2:]
    picture, crop = _to_unit(width, height), np.linalg.inv(_to_unit(side, side))
    places = [(picture @ np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]])) @ crop)[:2] for matrix in forth]
    theta = torch.from_numpy(np.stack(places)).to(pictures)
    grid = F.affine_grid(theta, [len(pictures), 3, side, side], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _to_unit(width: int, height: int) -> np.ndarray:
    """From pixels, whose centres are whole numbers, to ``grid_sample``'s -1..1: float64 [3, 3]."""
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
