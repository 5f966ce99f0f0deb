"""A pipeline's U-Net as a function of latents and what it is told, for loops of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.seams.latent import Told
from idpersona.seams.text import TextEmbeds


class Denoiser:
    """The denoiser of ``pipe`` for latents of ``size`` (height and width).

    Attributes:
        passes: of the U-Net so far, whatever their batch; a backward pass counts two.

    Raises:
        BadInput: the pipeline has no U-Net that takes plain latents.
    """

    def __init__(self, pipe: Any, size: tuple[int, int]):
        self.pipe, self.size = pipe, size
        self.unet: Any = getattr(pipe, "unet", None)
        self.passes = 0
        if self.unet is None:
            raise BadInput(f"{type(pipe).__name__} has no unet: photos are inverted with SD1.5 or SDXL bases")
        channels = pipe.vae.config["latent_channels"]
        if self.unet.config["in_channels"] != channels:
            raise BadInput(
                f"this base takes {self.unet.config['in_channels']} channels, not the {channels} of a "
                "picture: inpainting bases cannot invert a photo"
            )

    @property
    def device(self) -> torch.device:
        return self.pipe._execution_device

    @torch.no_grad()
    def tell(self, prompts: Sequence[str]) -> tuple[Told, Told]:
        """What rows with these prompts are told, and what their unconditional rows are; at least float32."""
        embeds = TextEmbeds(
            *self.pipe.encode_prompt(
                prompt=list(prompts),
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
            )
        )
        assert embeds.negative is not None

        def wide(x: Tensor | None) -> Any:
            return None if x is None else x.to(torch.promote_types(x.dtype, torch.float32))

        return (
            Told(wide(embeds.prompt), wide(embeds.pooled)),
            Told(wide(embeds.negative), wide(embeds.negative_pooled)),
        )

    def __call__(self, latents: Tensor, timestep: Any, told: Told, **inputs: Any) -> Tensor:
        """The prediction (epsilon or v, as the model makes it), float32 [rows, C, h, w].

        ``inputs`` are handed on to the model.
        """
        self.passes += 1
        kind = self.unet.dtype
        prediction = self.unet(
            latents.to(kind),
            timestep,
            encoder_hidden_states=told.text.to(kind),
            added_cond_kwargs=self.added(told),
            return_dict=False,
            **inputs,
        )[0]
        return prediction.to(torch.promote_types(latents.dtype, torch.float32))

    def added(self, told: Told) -> dict[str, Tensor] | None:
        """SDXL's pooled embeddings and sizes, in the model's dtype; None where nothing is pooled."""
        if told.pooled is None:
            return None
        kind = self.unet.dtype
        height, width = (side * self.pipe.vae_scale_factor for side in self.size)
        times = self.pipe._get_add_time_ids(
            (height, width),
            (0, 0),
            (height, width),
            dtype=kind,
            text_encoder_projection_dim=self.pipe.text_encoder_2.config.projection_dim,
        )
        rows = told.text.shape[0]
        return {"text_embeds": told.pooled.to(kind), "time_ids": times.to(self.device).repeat(rows, 1)}
