"""Train the embedded text-to-image model, and InstantID on it, by denoising.

Loss: v-prediction with the SNR + 1 weight of Salimans & Ho (arXiv:2202.00512), its SNR clamped as in min-SNR
(Hang et al., arXiv:2303.09556). With ``identity`` a share of every batch also sees who is in the picture,
through InstantID's projector, cross-attention and IdentityNet (arXiv:2401.07519): the descriptor is read from
*other* photos of the same person, so that copying the reference cannot pay. With ``latent_descriptor`` these
samples carry an identity loss on the estimated clean latents besides, and with ``drawn`` so do pictures that
the model itself began: a noisy photo shows who is in it, the model's own beginning only as far as it heeded
the person (so reasons PuLID, arXiv:2404.16022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTokenizer

from idpersona.errors import BadInput
from idpersona.training.checkpoints import checkpoint_folder, latest_checkpoint
from idpersona.training.keyed import StepKey
from idpersona.training.latents import Latents
from idpersona.training.loop import Objective
from idpersona.training.objectives.diffusion_config import DiffusionConfig
from idpersona.training.objectives.diffusion_data import DiffusionBatch, DiffusionData
from idpersona.training.objectives.diffusion_models import build_base, build_identity, export_base, predict
from idpersona.training.objectives.likeness import Likeness
from idpersona.training.weights import require_folder

_NOISE, _DRAWING = 1, 2
_DRAWING_STEPS = 5
SCHEDULE: dict[str, Any] = {
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


def loss_weight(snr: Tensor, gamma: float) -> Tensor:
    """Weight of the squared v error at signal-to-noise ratio ``snr``: 1 up to ``gamma``, beyond as 1/snr.

    In terms of the clean latents that is min(snr, gamma) + 1. min-SNR itself, min(snr, gamma), gives almost
    nothing to the noisiest steps, which decide where the face is, whose it is and what the prompt asked for:
    measured, neither was followed after a thousand steps.
    """
    return (snr.clamp(max=gamma) + 1) / (snr + 1)


@dataclass(frozen=True)
class Drawn:
    """One prediction of v; ``noisy`` and ``prediction`` [B, C, h, w], ``alpha`` [B, 1, 1, 1]."""

    noisy: Tensor
    prediction: Tensor
    alpha: Tensor

    def estimate(self) -> Tensor:
        """The clean latents that the prediction means."""
        return self.alpha.sqrt() * self.noisy - (1 - self.alpha).sqrt() * self.prediction

    def signal(self) -> Tensor:
        """How far the noisy latents of each row are made of the clean ones, [B]: what its estimate counts."""
        return self.alpha.sqrt().view(-1)


@dataclass(frozen=True)
class Denoised(Drawn):
    """A prediction for a photo made noisy; ``target`` is the true v."""

    target: Tensor

    def error(self) -> Tensor:
        """Mean squared error of each row, [B]."""
        return (self.prediction - self.target).square().mean(dim=(1, 2, 3))


class DiffusionObjective(Objective):
    """See the module's docstring. ``base`` and ``adapter`` are the trained models (``adapter`` None without
    ``identity``); a run that has begun in ``output`` goes on with the tokenizer that is kept there."""

    def __init__(self, config: DiffusionConfig, init_from: str | None, output: Path):
        self.config = config
        if not config.base and not init_from:
            raise BadInput("objective.base is false: init_from must name the run whose base stays as it is")
        self.latents = Latents(config.vae)
        self.data = DiffusionData(config, _tokenizer(init_from, output))
        self.likeness = None
        if config.latent_descriptor:
            self.likeness = Likeness(config.latent_descriptor, self.data.faces.descriptors)
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
            self.base.text_encoder.set_attn_implementation("eager")
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
        for name, rows, unlike in self._unlike(batch, latents, step):
            figures[name] = float(unlike.detach())
            loss = loss + self.config.likeness * rows / len(error) * unlike
        return loss, figures

    def _unlike(
        self, batch: DiffusionBatch, latents: Tensor, step: Denoised
    ) -> Iterator[tuple[str, int, Tensor]]:
        """Terms of the identity loss: name, how many rows it is the mean of, and its value."""
        if self.likeness is None or not batch.people:
            return
        people = slice(batch.people)
        estimate = step.estimate()[people]
        yield (
            "unlike",
            batch.people,
            self.likeness.to_photos(estimate, latents[people], step.signal()[people]),
        )
        if self.config.drawn and batch.key.step >= self.config.drawn_from:
            drawn = batch.of_share(self.config.drawn)
            if drawn.people:
                own = self.draw(drawn, latents.shape[1:])
                unlike = self.likeness.to_descriptors(own.estimate(), drawn.descriptors, own.signal())
                yield "unlike_drawn", drawn.people, unlike

    def begin(self, folder: Path) -> None:
        self.data.tokenizer.save_pretrained(folder / "tokenizer")

    def denoise(self, batch: DiffusionBatch, latents: Tensor) -> Denoised:
        """Add each row's keyed noise to ``latents`` at its timestep, and let the model predict."""
        noise = batch.key.normal(tuple(latents.shape[1:]), _NOISE).to(latents.device)
        alpha = self.alphas.to(latents.device)[batch.timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        return Denoised(
            noisy=noisy,
            target=alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
            prediction=self._predict(noisy, batch),
            alpha=alpha,
        )

    def draw(self, batch: DiffusionBatch, shape: Sequence[int]) -> Drawn:
        """Draw latents of ``shape`` [C, h, w] for each row, from noise up to a random step of the way.

        Only the prediction at that step records gradients. It is the same step for all rows and processes.
        """
        device = self.base.unet.device
        sampler = DDIMScheduler(**SCHEDULE)
        sampler.set_timesteps(_DRAWING_STEPS)
        last = int(batch.key.shared().integers(1, _DRAWING_STEPS))
        noisy = batch.key.normal(tuple(shape), _DRAWING).to(device)
        with torch.no_grad():
            conditions = self._conditions(batch)
            for timestep in sampler.timesteps[:last]:
                velocity = self._predict(noisy, batch.at(int(timestep)), conditions)
                noisy = sampler.step(velocity, int(timestep), noisy, return_dict=False)[0]
        # Autocast keeps the weights it has cast; those cast here would pass no gradient.
        torch.clear_autocast_cache()
        batch = batch.at(int(sampler.timesteps[last]))
        alpha = self.alphas.to(device)[batch.timesteps].view(-1, 1, 1, 1)
        return Drawn(noisy=noisy, prediction=self._predict(noisy, batch), alpha=alpha)

    def _conditions(self, batch: DiffusionBatch) -> tuple[Tensor, Tensor | None]:
        """The encoded captions [B, n, D], and the people's tokens [people, m, D] where there are people."""
        context = self.base.text_encoder(batch.token_ids)[0]
        if self.adapter is None or not batch.people:
            return context, None
        return context, self.adapter.projector(batch.descriptors)

    def _predict(
        self, noisy: Tensor, batch: DiffusionBatch, conditions: tuple[Tensor, Tensor | None] | None = None
    ) -> Tensor:
        """v, float32 [B, C, h, w]."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        context, tokens = conditions or self._conditions(batch)
        unet: Any = self.base.unet
        if tokens is not None and self.adapter:
            return predict(unet, self.adapter, noisy, context, tokens, batch).float()
        return unet(noisy, batch.timesteps, context, return_dict=False)[0].float()

    def export(self, folder: Path) -> None:
        """Write the base as a stock pipeline folder ``base`` and InstantID as ``instantid``."""
        export_base(self.base, SCHEDULE, folder / "base")
        if self.adapter:
            self.adapter.save_pretrained(folder / "instantid")


def _tokenizer(init_from: str | None, output: Path) -> CLIPTokenizer | None:
    """That of the run in ``output``, else that of the run it starts from; None where one is to be learnt.

    Learnt anew from captions that have changed, token numbers would mean other words.
    """
    folder = require_folder(Path(init_from) / "base", "text-to-image model", "mini") if init_from else None
    if latest_checkpoint(checkpoint_folder(output)):
        for kept in (output / "tokenizer", output / "base" / "tokenizer"):
            if kept.is_dir():
                return CLIPTokenizer.from_pretrained(kept)
        raise BadInput(f"{output} holds checkpoints without the tokenizer that belongs to them: start anew")
    return CLIPTokenizer.from_pretrained(folder / "tokenizer") if folder else None
