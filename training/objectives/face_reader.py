"""Faces of decoded pictures as unit embeddings whose gradients reach the pixels, for identity losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.checkpoint import load_component
from idpersona.encoders.arcface import ArcFace
from idpersona.encoders.differentiable import FaceDescriptor, aligned
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import MissingWeights
from idpersona.pixels import CLASSIFIER_SIDE, to_pictures
from idpersona.registry import locate
from idpersona.training.data.persona import find_points

DLIB, JUDGE = "dlib", "mini-judge"


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

    @classmethod
    def held_out(cls, name: str) -> FaceReader:
        """As :meth:`open`, or ``mini-judge``, which enters no loss: for a word on what is trained."""
        if name != JUDGE:
            return cls.open(name)
        return cls(_Judge(load_component(SmallFaceCNN, locate(JUDGE)).float()))

    def __call__(self, pictures: Tensor, keypoints: Any) -> Tensor:
        """Unit embeddings float32 [B, D]."""
        network: Any = self.network
        points = keypoints.detach().cpu().numpy() if isinstance(keypoints, Tensor) else np.asarray(keypoints)
        # bfloat16 would blur what tells two people apart.
        with torch.autocast(pictures.device.type, enabled=False):
            return F.normalize(network.to(pictures.device)(pictures.float(), points).float(), dim=1)

    def where_found(self, pictures: Tensor, points: Sequence[np.ndarray | None], dim: int) -> Tensor:
        """As :meth:`__call__`, [B, ``dim``]; zeros, whose gradient is 0, where there is no face."""
        rows = [n for n, place in enumerate(points) if place is not None]
        # In the graph in any case: where there is no face at all, there is a gradient still, of zeros.
        nothing = (0 * pictures.float().sum(dim=(1, 2, 3)))[:, None].expand(-1, dim)
        if not rows:
            return nothing
        faces = self(pictures[rows], np.stack([np.asarray(points[n]) for n in rows]))
        return nothing.index_add(0, torch.tensor(rows, device=faces.device), faces)


class _Judge(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor, keypoints: Any) -> Tensor:
        return self.network(aligned(pictures, keypoints, CLASSIFIER_SIDE))


def find_faces(pictures: Tensor) -> list[np.ndarray | None]:
    """Keypoints of the largest face that is detected in each picture [B, 3, H, W] in [-1, 1]: float32 [5, 2]
    pixels; None where there is no face."""
    return [find_points(picture) for picture in to_pictures(pictures)]


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
