"""Faces of decoded pictures as unit embeddings whose gradients reach the pixels, for identity losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.encoders.arcface import ArcFace
from idpersona.encoders.differentiable import FaceDescriptor
from idpersona.errors import MissingWeights

DLIB = "dlib"


class FaceReader:
    """Args:
    network: pictures [B, 3, H, W] in [-1, 1] and keypoints [B, 5, 2] to embeddings [B, D].
    """

    def __init__(self, network: nn.Module):
        self.network = network.requires_grad_(False).eval()

    @classmethod
    def open(cls, name: str) -> FaceReader:
        """``dlib``, which comes with the installation, or the file of a published ArcFace network
        (:class:`~idpersona.encoders.arcface.ArcFace`).

        Raises:
            MissingWeights: nothing lies there.
            CheckpointError: what lies there is no such network.
        """
        if name == DLIB:
            return cls(FaceDescriptor.load())
        place = Path(name)
        if not place.is_file():
            raise MissingWeights(f"there is no face network {name}: give {DLIB}, or an ArcFace file")
        return cls(ArcFace.load(place))

    def __call__(self, pictures: Tensor, keypoints: Any) -> Tensor:
        """Unit embeddings float32 [B, D]."""
        network: Any = self.network
        points = keypoints.detach().cpu().numpy() if isinstance(keypoints, Tensor) else np.asarray(keypoints)
        return F.normalize(network.to(pictures.device)(pictures.float(), points).float(), dim=1)


def portrait(faces: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine of each row [B] (PortraitBooth); all unit vectors [B, D]."""
    return 1 - (faces * wanted).sum(dim=1)


def triplet(faces: Tensor, wanted: Tensor, others: Tensor, margin: float) -> Tensor:
    """ID-Booth (arXiv:2504.07392): [B], 0 where a face is nearer to ``wanted`` than to ``others`` by
    ``margin`` in cosine distance.

    With the published margin of 1 that is as good as never: then it pulls and pushes alike at all times.
    """
    return (portrait(faces, wanted) - portrait(faces, others) + margin).clamp(min=0)


def contrast(faces: Tensor, wanted: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """InfoNCE [B] of each face to its person against a ``bank`` of others, unit vectors [N, D]
    (WithAnyone, arXiv:2510.14975)."""
    right = (faces * wanted).sum(dim=1, keepdim=True)
    logits = torch.cat([right, faces @ bank.T], dim=1) / temperature
    return F.cross_entropy(
        logits, torch.zeros(len(faces), dtype=torch.long, device=faces.device), reduction="none"
    )
