"""Train a small network to read dlib's face descriptor from the autoencoder's latents.

It stands in for the face encoder inside the loss of the generator: differentiable, and with no decoding in
between. It is used for training only and is not shipped; no judge has a part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.pixels import to_tensor
from idpersona.training.data.faces import FaceData, sampling_weights
from idpersona.training.data.framing import SIDE
from idpersona.training.data.pictures import run_over
from idpersona.training.keyed import StepKey
from idpersona.training.latents import Latents
from idpersona.training.loop import Objective
from idpersona.training.weights import channels_last

_NOISE, _CORRUPTION = 1, 2


class LatentDescriptorConfig(BaseModel):
    """``vae``: folder of the trained autoencoder; ``widths``, ``blocks``: size of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["latent-descriptor"]
    vae: str
    widths: tuple[int, ...] = (64, 112, 192)
    blocks: int = 2


class LatentDescriptorObjective(Objective):
    """Cosine between what is read from a photo's latents and its descriptor, less the mean descriptor.

    Half of the latents are blurred or noisy, as a generator's estimates are.
    """

    def __init__(self, config: LatentDescriptorConfig):
        self.latents = Latents(config.vae)
        self.faces = FaceData.open("train")
        self.weights = sampling_weights(self.faces)
        self.mean = self.faces.descriptors.mean(axis=0)
        self.trained = channels_last(
            SmallFaceCNN(
                out_dim=self.faces.descriptors.shape[1],
                widths=config.widths,
                blocks=config.blocks,
                task="descriptor",
                in_channels=self.latents.vae.config["latent_channels"],
                side=SIDE // 8,
                stem_stride=1,
            )
        )

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        device = self.trained.device
        pictures, rows = [], []
        for index in key.indices:
            rng = key.rng(index)
            rows.append(int(np.searchsorted(self.weights, rng.random())))
            pictures.append(self.faces.framed_random(rows[-1], rng)[0])
        wanted = torch.from_numpy(self.faces.descriptors[rows] - self.mean).to(device)
        latents = corrupt(self.latents(to_tensor(pictures).to(device)), key)
        cosine = F.cosine_similarity(self.trained(latents).float(), wanted).mean()
        return 1 - cosine, {"cosine": float(cosine.detach())}

    def export(self, folder: Path) -> None:
        """Write ``model``, with its cosine on validation people in its configuration."""
        faces = FaceData.open("validation")
        read = run_over(nn.Sequential(self.latents, self.trained), range(len(faces)), faces.framed)
        cosine = F.cosine_similarity(read, torch.from_numpy(faces.descriptors - self.mean))
        self.trained.register_to_config(metrics={"validation_cosine": round(float(cosine.mean()), 4)})
        self.trained.save_pretrained(folder / "model")


def corrupt(latents: Tensor, key: StepKey) -> Tensor:
    """Latents [B, C, h, w] of which every other one is blurred by a random amount and made noisy."""
    chance = np.stack([key.rng(i, _CORRUPTION).random(3) for i in key.indices])
    amount = torch.from_numpy(chance[:, :2] * (chance[:, 2:] < 0.5)).float().to(latents.device)
    blur, noise = (amount[:, n].view(-1, 1, 1, 1) for n in range(2))
    smooth = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return latents.lerp(smooth, 0.8 * blur) + 0.3 * noise * key.normal(tuple(latents.shape[1:]), _NOISE).to(
        latents.device
    )
