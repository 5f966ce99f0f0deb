"""Distil dlib's face descriptor into a small differentiable network, for losses on drawn faces.

It sees a face aligned as for ArcFace (64 pixels) and answers with the descriptor less the mean descriptor of
the training photos, whose direction is what tells people apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.pixels import to_tensor
from idpersona.training.data.faces import FaceData, sampling_weights
from idpersona.training.data.pictures import jitter, run_over
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.judge import aligned, verification
from idpersona.training.weights import channels_last


class FaceDescriptorConfig(BaseModel):
    """``widths``, ``blocks``: size of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["face-descriptor"]
    widths: tuple[int, ...] = (32, 64, 96, 160)
    blocks: int = 2


class FaceDescriptorObjective(Objective):
    """1 - cosine between the network's answer and dlib's descriptor, both less the mean descriptor."""

    def __init__(self, config: FaceDescriptorConfig):
        self.faces = FaceData.open("train")
        self.weights = sampling_weights(self.faces)
        self.mean = self.faces.descriptors.mean(axis=0)
        self.trained = channels_last(
            SmallFaceCNN(
                out_dim=self.faces.descriptors.shape[1],
                widths=config.widths,
                blocks=config.blocks,
                task="descriptor",
            )
        )

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        device = self.trained.device
        pictures, rows = [], []
        for index in key.indices:
            rng = key.rng(index)
            rows.append(int(np.searchsorted(self.weights, rng.random())))
            picture = aligned(self.faces, rows[-1], rng)
            pictures.append(jitter(picture[:, ::-1] if rng.random() < 0.5 else picture, rng))
        wanted = torch.from_numpy(self.faces.descriptors[rows] - self.mean).to(device)
        answer = self.trained(to_tensor(pictures).to(device)).float()
        cosine = F.cosine_similarity(answer, wanted).mean()
        return 1 - cosine, {"cosine": float(cosine.detach())}

    def export(self, folder: Path) -> None:
        """Write ``model``; in its configuration its cosine to dlib and how well it tells people apart."""
        faces = FaceData.open("validation")
        read = run_over(self.trained, range(len(faces)), partial(aligned, faces))
        truth = torch.from_numpy(faces.descriptors - self.mean)
        cosine = F.cosine_similarity(read, truth).mean()
        metrics = verification(read, faces.identities)
        metrics |= {f"dlib_{k}": v for k, v in verification(truth, faces.identities).items() if k != "pairs"}
        self.trained.register_to_config(metrics=metrics | {"validation_cosine": round(float(cosine), 4)})
        self.trained.save_pretrained(folder / "model")
