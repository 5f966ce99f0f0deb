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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from idpersona.errors import BadInput
from idpersona.training.checkpoints import checkpoint_folder, latest_checkpoint
from idpersona.training.keyed import StepKey
from idpersona.training.latents import Latents
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import SCHEDULE, Denoised, Drawn, denoise, draw
from idpersona.training.objectives.diffusion_config import DiffusionConfig
from idpersona.training.objectives.diffusion_data import DiffusionBatch, DiffusionData
from idpersona.training.objectives.diffusion_models import (
    base_pipeline,
    build_base,
    build_identity,
    export_base,
    predict,
)
from idpersona.training.objectives.likeness import Likeness
from idpersona.training.samples.drawing import Drawing
from idpersona.training.weights import require_folder


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

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        batch = self.data.batch(key).to(self.base.unet.device)
        latents = self.latents(batch.pictures)
        step = self.denoise(batch, latents)
        error, loss = step.error(), step.loss(self.config.min_snr)
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
        return denoise(lambda noisy, _: self._predict(noisy, batch), latents, batch.timesteps, batch.key)

    def draw(self, batch: DiffusionBatch, shape: Sequence[int]) -> Drawn:
        """Latents of ``shape`` [C, h, w] for each row, drawn from noise up to a random step of the way."""
        conditions: Any = None

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            nonlocal conditions
            if torch.is_grad_enabled():
                return self._predict(noisy, batch.at(int(timesteps[0])))
            conditions = conditions or self._conditions(batch)
            return self._predict(noisy, batch.at(int(timesteps[0])), conditions)

        return draw(predict, tuple(shape), batch.key, self.base.unet.device)

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

    @contextmanager
    def drawing(self) -> Iterator[Drawing]:
        pipe = base_pipeline(self.base, SCHEDULE).to(self.base.unet.device)
        pipe.set_progress_bar_config(disable=True)
        if self.adapter is None:
            yield Drawing(pipe)
        else:
            yield Drawing(pipe, self.adapter, self.adapter.read, alone=self.config.base)

    def save(self, folder: Path) -> None:
        """InstantID itself, where it is trained: ``load_adapter`` reads a checkpoint's folder."""
        if self.adapter:
            self.adapter.save_pretrained(folder)

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
