"""Train a LoRA (arXiv:2106.09685) of the embedded model on photos with one attribute.

A narrow set teaches more than it should: what all its photos have comes back whatever is asked for. DECOR is
measured on such a leak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pixels import to_tensor
from idpersona.seams.checkpointing import checkpoint_blocks
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import denoise
from idpersona.training.objectives.diffusion_data import CaptionedFaces
from idpersona.training.objectives.latent_model import LatentModel, require_small
from idpersona.training.parts import TrainedParameters
from idpersona.training.peft_lora import add_lora, require_peft, save_lora
from idpersona.training.samples.drawing import Drawing


class LoraConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        base: folder of the text-to-image pipeline, which is not changed.
        labeler: folder of the attribute classifier that labels photos without attributes, or null.
        attribute: every photo of the set has it (its CelebA name).
        caption: of every photo; empty takes the photo's own.
        photos: size of the set.
        rank: of the LoRA.
        targets: layers of the attention that it changes.
        text_drop: share of the samples whose caption is empty.
        min_snr: gamma of ``loss_weight``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["lora"]
    base: str
    labeler: str | None = None
    attribute: str
    caption: str = ""
    photos: int = Field(200, ge=1)
    rank: int = Field(4, ge=1)
    targets: tuple[str, ...] = ("attn2.to_k", "attn2.to_v")
    text_drop: float = Field(0.1, ge=0, le=1)
    min_snr: float = Field(5.0, gt=0)


class LoraObjective(Objective):
    """See the module's docstring."""

    writes_only = True

    def __init__(self, config: LoraConfig):
        require_peft()
        self.config = config
        self.model = LatentModel.open(config.base)
        require_small(self.model)
        self.unet = self.model.unet
        self.data = CaptionedFaces(config.labeler)
        rows = [n for n, known in enumerate(self.data.attributes) if known.get(config.attribute)]
        if not rows:
            raise BadInput(f"objective.attribute: no photo has '{config.attribute}'")
        order = np.random.default_rng(0).permutation(len(rows))
        self.rows = [rows[n] for n in order[: config.photos]]
        add_lora(self.unet, config.rank, config.targets)
        self.trained = TrainedParameters(self.unet)

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        device = self._device
        model = self.model.to(device)
        pictures, texts, offsets = [], [], []
        for index in key.indices:
            rng = key.rng(index)
            row = self.rows[int(rng.integers(len(self.rows)))]
            pictures.append(self.data.faces.framed_random(row, rng, wide=False)[0])
            text = self.config.caption or self.data.caption(row, rng)
            texts.append("" if rng.random() < self.config.text_drop else text)
            offsets.append(float(rng.random()))
        strata = zip(key.strata(), offsets, strict=True)
        timesteps = torch.tensor([int(1000 * (stratum + offset) / key.total) for stratum, offset in strata])
        told = model.tell(texts)
        step = denoise(
            lambda noisy, times: model.predict(noisy, times, told),
            model.encode(to_tensor(pictures).to(device)),
            timesteps.clamp(0, 999).to(device),
            key,
            model.schedule,
        )
        loss = step.loss(self.config.min_snr)
        return loss, {"mse": float(step.error().mean().detach())}

    def checkpoint_activations(self) -> None:
        checkpoint_blocks(self.unet)

    @contextmanager
    def drawing(self) -> Iterator[Drawing]:
        yield Drawing(self.model.to(self._device).pipe)

    @property
    def _device(self) -> torch.device:
        return next(self.trained.parameters()).device

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, which ``load_lora_weights`` reads."""
        save_lora(type(self.model.pipe), self.unet, folder)

    def export(self, folder: Path) -> None:
        """As :meth:`save`, in ``lora``."""
        self.save(folder / "lora")
