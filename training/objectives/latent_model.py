"""A text-to-image pipeline as trainings look through it: SD1.5, SDXL and the embedded model alike.

All of it is frozen; what is trained lies beside it, or is put into its U-Net. Gradients pass through U-Net
and decoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import PreTrainedModel

from idpersona.attention.kernels import Kernel, eager, sdpa
from idpersona.errors import BadInput
from idpersona.pipelines import load_base
from idpersona.pipelines.base import require_text_to_image
from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.photos import canvas_of
from idpersona.seams.latent import Told
from idpersona.training.data.framing import SIDE
from idpersona.training.objectives.denoising import Schedule
from idpersona.training.weights import channels_last

_TOLD = 64
"""Prompts whose embeddings are kept: one of SDXL takes 600 KB."""


class LatentModel:
    """See the module's docstring.

    Args:
        pipe: a text-to-image pipeline of diffusers.
        size: width and height of the pictures; None for what its U-Net was made for.

    Attributes:
        schedule: its noise.
        kernel: attention for layers beside its own.

    Raises:
        BadInput: the pipeline takes a picture of its own, its prediction type cannot be trained on, or it
            cannot draw pictures of that size.
    """

    def __init__(self, pipe: Any, size: tuple[int, int] | None = None):
        require_text_to_image(pipe)
        size = canvas_of(pipe, size)
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        self.pipe, self.size = pipe, size
        self.schedule = Schedule(pipe.scheduler.config)
        self._told: OrderedDict[str, Told] = OrderedDict()
        channels_last(pipe.unet)
        channels_last(pipe.vae)
        self.kernel: Kernel = sdpa
        if not torch.cuda.is_available():
            # On a CPU the fused attention's backward pass in bf16 costs more than the plain products.
            self.kernel = eager
            pipe.unet.set_attn_processor(AttnProcessor())
            for part in pipe.components.values():
                if isinstance(part, PreTrainedModel):
                    part.set_attn_implementation("eager")

    @classmethod
    def open(cls, name: str | Path, size: tuple[int, int] | None = None, dtype: str = "fp32") -> Self:
        """Load a base by name, folder or hub id; raises as ``load_base``.

        ``dtype`` is of what only passes numbers on; the autoencoder stays in float32, in half of which some
        overflow.
        """
        model = cls(load_base(name, dtype=dtype), size)
        model.pipe.vae.float()
        return model

    @property
    def unet(self) -> Any:
        return self.pipe.unet

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        factor = self.pipe.vae_scale_factor
        return self.pipe.vae.config["latent_channels"], self.size[1] // factor, self.size[0] // factor

    def to(self, device: torch.device) -> Self:
        """Move all parts. What is trained of the U-Net may have taken it there alone."""
        if {self.pipe.unet.device, self.pipe.vae.device} != {device}:
            self.pipe.to(device)
            self._told.clear()
        return self

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents float32 [B, C, h, w] of pictures [B, 3, H, W] in [-1, 1]: the mean of their distribution.

        Raises:
            BadInput: they are no numbers (an autoencoder that overflows in half precision).
        """
        vae = self.pipe.vae
        values = pictures.to(vae.device, vae.dtype).contiguous(memory_format=torch.channels_last)
        with self._no_fp16():
            encoded = vae.encode(values)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        latents = (latents.float() - self._shift) * vae.config["scaling_factor"]
        if not bool(torch.isfinite(latents).all()):
            raise BadInput(f"the autoencoder makes no numbers of a photo in {vae.dtype}: load it in float32")
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W] in [-1, 1]; gradients flow through."""
        vae = self.pipe.vae
        values = latents / vae.config["scaling_factor"] + self._shift
        values = values.to(vae.dtype).contiguous(memory_format=torch.channels_last)
        with self._no_fp16():
            return vae.decode(values).sample.float()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A scope in which the pipeline can draw though its autoencoder is kept in another type."""
        kind = self.unet.device.type
        with torch.autocast(kind, self.unet.dtype, enabled=self.unet.dtype != self.pipe.vae.dtype):
            yield

    def _no_fp16(self) -> AbstractContextManager[Any]:
        """Autoencoders overflow in half precision, also by autocast; bfloat16 has the range of float32."""
        kind = self.pipe.vae.device.type
        if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
            return torch.autocast(kind, enabled=False)
        return nullcontext()

    @torch.no_grad()
    def tell(self, texts: Sequence[str]) -> Told:
        """What rows with these prompts are told; prompts that come often are encoded once.

        Each by itself: in a batch its last digits would depend on the others, and on what was kept, so that a
        run that is resumed would not be the uninterrupted one.
        """
        for text in dict.fromkeys(texts):
            if text in self._told:
                continue
            # What is kept must not depend on who asked first, within autocast or outside of it.
            with torch.autocast(self.pipe.unet.device.type, enabled=False):
                embeds: Any = self.pipe.encode_prompt(
                    prompt=text,
                    device=self.pipe.unet.device,
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=False,
                )
            # SDXL gives the pooled embeddings third, SD1.5 has none.
            self._told[text] = Told(embeds[0][0].float(), embeds[2][0].float() if len(embeds) > 2 else None)
        rows = [self._told[text] for text in texts]
        for text in texts:
            self._told.move_to_end(text)
        while len(self._told) > _TOLD:
            self._told.popitem(last=False)
        pooled_rows = [row.pooled for row in rows if row.pooled is not None]
        return Told(
            torch.stack([row.text for row in rows]), torch.stack(pooled_rows) if pooled_rows else None
        )

    def added(self, told: Told) -> dict[str, Tensor] | None:
        """What SDXL's U-Net and ControlNets are told besides; None for other bases."""
        return self._denoiser.added(told)

    def predict(self, noisy: Tensor, timesteps: Tensor, told: Told, **inputs: Any) -> Tensor:
        """What the U-Net makes of it, float32 [B, C, h, w]; ``inputs`` are further ones of it."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self._denoiser(noisy, timesteps, told, **inputs)

    @property
    def _denoiser(self) -> Denoiser:
        return Denoiser(self.pipe, self.shape[1:])

    @property
    def _shift(self) -> float:
        return float(self.pipe.vae.config.get("shift_factor") or 0.0)


def require_small(model: LatentModel) -> None:
    """Raise BadInput where ``model`` draws other pictures than the embedded model's, whose photos are asked
    for."""
    if model.size != (SIDE, SIDE):
        raise BadInput(
            f"objective.base draws {model.size[0]}x{model.size[1]}, and the embedded model's photos are "
            f"{SIDE}x{SIDE}: name a dataset (InstantID takes one), or a base of that size"
        )
