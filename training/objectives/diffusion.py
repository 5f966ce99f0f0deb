"""Train the embedded text-to-image model, and InstantID on it, by denoising.

Loss: v-prediction (Salimans & Ho, arXiv:2202.00512) with min-SNR weighting (Hang et al., arXiv:2303.09556). With
``identity`` a share of every batch also sees who is in the picture, through InstantID's projector, cross-attention
and IdentityNet (arXiv:2401.07519): the descriptor is read from *other* photos of the same person, so that copying
the reference cannot pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderTiny, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from idpersona.training.keyed import StepKey
from idpersona.training.objectives.diffusion_data import DiffusionBatch, DiffusionData
from idpersona.training.objectives.diffusion_models import (
    DiffusionModels,
    IdentityModels,
    build_identity,
    build_models,
    export_identity,
    export_models,
)

_NOISE = 1
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


class DiffusionConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        vae: folder of the trained autoencoder.
        base: train the base (text encoder and UNet); else they stay as ``init_from`` has them.
        identity: share of each batch that is conditioned on a person; 0 trains the base alone.
        text_drop: share of samples whose caption is empty (for guidance).
        identity_drop, both_drop: shares of the identity samples with a zero vector, and with neither.
        min_snr: gamma of the min-SNR weight.
        labeler: folder of the attribute classifier that captions photos without attributes, or null.
        wide: share of samples in a framing from the whole range of poses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["diffusion"]
    vae: str
    base: bool = True
    identity: float = Field(0.5, ge=0, le=1)
    text_drop: float = Field(0.12, ge=0, lt=1)
    identity_drop: float = Field(0.05, ge=0, lt=1)
    both_drop: float = Field(0.05, ge=0, lt=1)
    min_snr: float = Field(5.0, gt=0)
    labeler: str | None = None
    wide: float = Field(0.35, ge=0, le=1)
    channels: tuple[int, ...] = (128, 192, 224)
    layers: int = 1
    text_width: int = 192
    text_layers: int = 3
    vocabulary: int = 1024
    prompt_length: int = 64
    tokens: int = 8


class DiffusionObjective:
    """See the module's docstring."""

    def __init__(self, config: DiffusionConfig, init_from: str | None):
        self.config = config
        self.data = DiffusionData(config)
        self.vae = AutoencoderTiny.from_pretrained(config.vae).eval().to(memory_format=torch.channels_last)
        self.models: DiffusionModels = build_models(config, self.data, init_from)
        self.identity: IdentityModels | None = build_identity(config, self.models, init_from) if config.identity else None
        parts: dict[str, nn.Module] = {"unet": self.models.unet, "text_encoder": self.models.text_encoder}
        if not config.base:
            for part in parts.values():
                part.requires_grad_(False)
        if self.identity:
            parts |= self.identity.parts()
        # On a CPU the fused attention's backward pass in bf16 costs more than the plain products.
        for name in ("unet", "identitynet"):
            if name in parts and not torch.cuda.is_available():
                parts[name].set_attn_processor(AttnProcessor())  # type: ignore[operator]
        self.trained: nn.Module = nn.ModuleDict(parts)
        scheduler = DDIMScheduler(**SCHEDULE)
        self.alphas = scheduler.alphas_cumprod

    def loss(self, module: Any, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        batch = self.data.batch(key)
        with torch.no_grad():
            pictures = batch.pictures.contiguous(memory_format=torch.channels_last)
            latents = self.vae.encode(pictures).latents.float() * self.vae.config["scaling_factor"]
        noise = batch.key.normal(tuple(latents.shape[1:]), _NOISE)
        alpha = self.alphas[batch.timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        context = module["text_encoder"](batch.token_ids)[0]
        prediction = self._predict(module, noisy, context, batch).float()
        error = (prediction - target).square().mean(dim=(1, 2, 3))
        snr = (alpha / (1 - alpha)).view(-1)
        weight = torch.clamp(snr, max=self.config.min_snr) / (snr + 1)
        weighted = weight * error
        figures = {"mse": float(error.mean().detach())}
        if 0 < batch.people < len(error):
            figures["with_identity"] = float(error[: batch.people].mean().detach())
        return weighted.mean(), figures

    def _predict(self, module: Any, noisy: Tensor, context: Tensor, batch: DiffusionBatch) -> Tensor:
        """The first ``batch.people`` rows are conditioned on a person, the others on text alone."""
        people = batch.people
        if not people or self.identity is None:
            return module["unet"](noisy, batch.timesteps, context, return_dict=False)[0]
        return self.identity.predict(module, noisy, context, batch)

    def export(self, folder: Path) -> None:
        """Write the base as a stock pipeline folder ``base`` and InstantID as ``instantid``."""
        export_models(self.models, self.config.vae, SCHEDULE, folder / "base")
        if self.identity:
            export_identity(self.identity, folder / "instantid")
