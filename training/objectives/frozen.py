"""What stays as it is while something beside it is trained: the text-to-image model, and other networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from idpersona.attention.kernels import Kernel, eager, sdpa
from idpersona.checkpoint import load_component
from idpersona.training.latents import Latents
from idpersona.training.weights import channels_last, require_folder


@dataclass(frozen=True)
class FrozenBase:
    """A text-to-image pipeline and its parts, float32, no gradients; ``kernel`` is for layers beside its own.

    ``pipe`` is the stock pipeline of these very parts.
    """

    pipe: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    latents: Latents
    kernel: Kernel

    @classmethod
    def open(cls, folder: str) -> FrozenBase:
        """Read the pipeline in ``folder``. Raises MissingWeights when nothing lies there."""
        path = require_folder(folder, "text-to-image model", "mini")
        pipe: Any = StableDiffusionPipeline.from_pretrained(path, torch_dtype=torch.float32)
        unet: Any = channels_last(pipe.unet.requires_grad_(False))
        text_encoder: Any = pipe.text_encoder.requires_grad_(False)
        kernel: Kernel = sdpa
        if not torch.cuda.is_available():
            # On a CPU the fused attention's backward pass in bf16 costs more than the plain products.
            kernel = eager
            unet.set_attn_processor(AttnProcessor())
            text_encoder.set_attn_implementation("eager")
        latents = Latents(str(path / "vae"))
        pipe.register_modules(vae=latents.vae)
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, unet, text_encoder, pipe.tokenizer, latents, kernel)


def frozen(component: Any, folder: str, what: str, recipe: str) -> Any:
    """A trained network of class ``component`` in ``folder``, float32, without gradients.

    Raises MissingWeights naming the ``recipe`` that makes it.
    """
    path = require_folder(folder, what, recipe)
    if hasattr(component, "load_config"):
        return load_component(component, path).float().requires_grad_(False).eval()
    return component.from_pretrained(path, dtype=torch.float32).requires_grad_(False).eval()
