"""Train the embedded text-to-image model, and InstantID on it, by denoising.

Loss: v-prediction with the SNR + 1 weight of Salimans & Ho (arXiv:2202.00512), its SNR clamped as in min-SNR
(Hang et al., arXiv:2303.09556). With ``identity`` a share of every batch also sees who is in the picture,
through InstantID's projector, cross-attention and IdentityNet (arXiv:2401.07519): the descriptor is read from
*other* photos of the same person, so that copying the reference cannot pay. With ``latent_descriptor`` these
samples carry an identity loss on the estimated clean latents besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.models.attention_processor import AttnProcessor
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from transformers import CLIPTokenizer

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import BadInput
from idpersona.training.keyed import StepKey
from idpersona.training.latents import Latents
from idpersona.training.objectives.diffusion_data import PERIOD, DiffusionBatch, DiffusionData
from idpersona.training.objectives.diffusion_models import build_base, build_identity, export_base, predict
from idpersona.training.weights import channels_last, require_folder

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
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""The last step is nothing but noise (Lin et al., arXiv:2305.08891), and sampling starts there.

Stable Diffusion's own last step leaves 7 % of the latents' amplitude, in which a 16x16 picture's colours and
outlines can still be read. A model trained on it takes them from there instead of from the prompt and the
person; from pure noise it then draws the same brown haze for everybody.
"""


class DiffusionConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        vae: folder of the trained autoencoder.
        base: train the base (text encoder and UNet); else they stay as ``init_from`` has them.
        identity: share of each batch that is conditioned on a person, in eighths (exact for batches of a
            multiple of 8); 0 trains the base alone.
        text_drop: share of samples whose caption is empty (for guidance).
        identity_drop, both_drop: shares of the identity samples with a zero vector, and with neither.
        min_snr: gamma of ``loss_weight``.
        labeler: folder of the attribute classifier that captions photos without attributes, or null.
        latent_descriptor: folder of the network that reads a face's descriptor from latents, or null.
        likeness: weight of the identity loss that it gives: how far the descriptor of the estimated clean
            latents lies from that of the photo (1 - cosine), for samples with a person.
        wide: share of samples in a framing from the whole range of poses.
        channels, layers: of the fresh UNet, whose heads are 32 wide; with ``init_from`` unused, as are the
            following.
        text_width, text_layers, vocabulary, prompt_length: of the fresh text encoder.
        tokens: how many tokens tell the UNet of a person.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["diffusion"]
    vae: str
    base: bool = True
    identity: float = Field(0.5, ge=0, le=1, multiple_of=1 / PERIOD)
    text_drop: float = Field(0.12, ge=0, lt=1)
    identity_drop: float = Field(0.05, ge=0, lt=1)
    both_drop: float = Field(0.05, ge=0, lt=1)
    min_snr: float = Field(5.0, gt=0)
    labeler: str | None = None
    latent_descriptor: str | None = None
    likeness: float = Field(0.1, ge=0)
    wide: float = Field(0.35, ge=0, le=1)
    channels: tuple[int, ...] = (128, 192, 224)
    layers: int = 1
    text_width: int = 192
    text_layers: int = 3
    vocabulary: int = 1024
    prompt_length: int = 64
    tokens: int = 8

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if not self.base and not self.identity:
            raise ValueError("with base false and identity 0 there is nothing to train")
        return self


def loss_weight(snr: Tensor, gamma: float) -> Tensor:
    """Weight of the squared v error at signal-to-noise ratio ``snr``: 1 up to ``gamma``, beyond as 1/snr.

    In terms of the clean latents that is min(snr, gamma) + 1. min-SNR itself, min(snr, gamma), gives almost
    nothing to the noisiest steps, which decide where the face is, whose it is and what the prompt asked for:
    measured, neither was followed after a thousand steps.
    """
    return (snr.clamp(max=gamma) + 1) / (snr + 1)


@dataclass(frozen=True)
class Denoised:
    """One prediction; ``noisy``, ``target`` (v) and ``prediction`` [B, C, h, w], ``alpha`` [B, 1, 1, 1]."""

    noisy: Tensor
    target: Tensor
    prediction: Tensor
    alpha: Tensor

    def error(self) -> Tensor:
        """Mean squared error of each row, [B]."""
        return (self.prediction - self.target).square().mean(dim=(1, 2, 3))

    def estimate(self) -> Tensor:
        """The clean latents that the prediction means."""
        return self.alpha.sqrt() * self.noisy - (1 - self.alpha).sqrt() * self.prediction


class DiffusionObjective:
    """See the module's docstring. ``base`` and ``adapter`` are the trained models (``adapter`` None without
    ``identity``)."""

    def __init__(self, config: DiffusionConfig, init_from: str | None):
        self.config = config
        if not config.base and not init_from:
            raise BadInput("objective.base is false: init_from must name the run whose base stays as it is")
        self.latents = Latents(config.vae)
        self.reader = None
        if config.latent_descriptor:
            folder = require_folder(config.latent_descriptor, "reader of descriptors", "latent-descriptor")
            self.reader = channels_last(SmallFaceCNN.from_pretrained(folder).eval().requires_grad_(False))
        tokenizer = None
        if init_from:
            folder = require_folder(Path(init_from) / "base", "text-to-image model", "mini")
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.data = DiffusionData(config, tokenizer)
        self.base = build_base(config, self.data.tokenizer, self.latents.vae, init_from)
        self.adapter = (
            build_identity(config, self.base.unet, self.data.faces.descriptors, init_from)
            if config.identity
            else None
        )
        parts: dict[str, nn.Module] = {"unet": self.base.unet, "text_encoder": self.base.text_encoder}
        if not config.base:
            for part in parts.values():
                part.requires_grad_(False)
        if self.adapter:
            parts |= self.adapter.parts
        if not torch.cuda.is_available():
            # On a CPU the fused attention's backward pass in bf16 costs more than the plain products.
            self.base.unet.set_attn_processor(AttnProcessor())
            if self.adapter and self.adapter.identitynet:
                self.adapter.identitynet.set_attn_processor(AttnProcessor())
        self.trained = nn.ModuleDict(parts)
        self.alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        batch = self.data.batch(key).to(self.base.unet.device)
        latents = self.latents(batch.pictures)
        step = self.denoise(batch, latents)
        error = step.error()
        snr = (step.alpha / (1 - step.alpha)).view(-1)
        loss = (loss_weight(snr, self.config.min_snr) * error).mean()
        figures = {"mse": float(error.mean().detach())}
        if 0 < batch.people < len(error):
            figures["with_identity"] = float(error[: batch.people].mean().detach())
        if self.reader and batch.people:
            people = slice(batch.people)
            signal = step.alpha[people].sqrt().view(-1)
            unlike = self._unlike(step.estimate()[people], latents[people], signal)
            figures["unlike"] = float(unlike.detach())
            loss = loss + self.config.likeness * batch.people / len(error) * unlike
        return loss, figures

    def denoise(self, batch: DiffusionBatch, latents: Tensor) -> Denoised:
        """Add each row's keyed noise to ``latents`` at its timestep, and let the model predict."""
        noise = batch.key.normal(tuple(latents.shape[1:]), _NOISE).to(latents.device)
        alpha = self.alphas.to(latents.device)[batch.timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        context = self.base.text_encoder(batch.token_ids)[0]
        unet: Any = self.base.unet
        if batch.people and self.adapter:
            prediction = predict(unet, self.adapter, noisy, context, batch)
        else:
            prediction = unet(noisy, batch.timesteps, context, return_dict=False)[0]
        return Denoised(
            noisy=noisy,
            target=alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
            prediction=prediction.float(),
            alpha=alpha,
        )

    def _unlike(self, estimate: Tensor, latents: Tensor, weight: Tensor) -> Tensor:
        """How little the faces of ``estimate`` are those of ``latents``: 1 - cosine of their descriptors.

        ``weight`` [B] counts an estimate as far as it is made of signal; the mean over all rows.
        """
        reader = cast(SmallFaceCNN, self.reader).to(latents.device)
        with torch.no_grad():
            wanted = reader(latents).float()
        cosine = F.cosine_similarity(reader(estimate).float(), wanted)
        return (weight * (1 - cosine)).mean()

    def export(self, folder: Path) -> None:
        """Write the base as a stock pipeline folder ``base`` and InstantID as ``instantid``."""
        export_base(self.base, SCHEDULE, folder / "base")
        if self.adapter:
            self.adapter.save_pretrained(folder / "instantid")
