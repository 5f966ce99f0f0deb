"""Constructor arguments of pipelines, at toy size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from idpersona.errors import UnknownName
from idpersona.testing.instantid import tiny_adapter
from idpersona.testing.tokenizer import VOCAB_SIZE, tiny_tokenizer

TEXT_WIDTH = 32


def tiny_components(kind: str, *, seed: int = 0) -> dict[str, Any]:
    """Real toy-size components for the pipeline class of ``kind``: evaluation mode, float32, on the CPU.

    64×64 pixels, latents 4×32×32. All weights are drawn from ``seed`` without touching torch's global random
    state; layers that start at zero in training (ControlNet outputs) are drawn too, so that no part is idle.

    Args:
        kind: ``sd15``, ``sdxl``, ``instantid-sd15`` or ``instantid-sdxl``.
        seed: of the weights.

    Raises:
        UnknownName: ``kind`` is none of these.
    """
    builders: dict[str, Callable[[], dict[str, Any]]] = {
        "sd15": _sd15,
        "sdxl": _sdxl,
        "instantid-sd15": lambda: _with_instantid(_sd15()),
        "instantid-sdxl": lambda: _with_instantid(_sdxl()),
    }
    if kind not in builders:
        raise UnknownName("kind of tiny model", kind, builders)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        components = builders[kind]()
    for part in components.values():
        if isinstance(part, nn.Module):
            part.eval()
    return components


def _unet_config(**overrides: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "in_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
    }
    return config | overrides


def _sdxl_config() -> dict[str, Any]:
    return _unet_config(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        cross_attention_dim=2 * TEXT_WIDTH,
    )


def _unet(config: dict[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32, out_channels=4, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **config
    )


def _vae() -> AutoencoderKL:
    config: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "latent_channels": 4,
        "sample_size": 64,
    }
    return AutoencoderKL(**config)


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCAB_SIZE,
        bos_token_id=VOCAB_SIZE - 2,
        eos_token_id=VOCAB_SIZE - 1,
        pad_token_id=VOCAB_SIZE - 1,
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        projection_dim=TEXT_WIDTH,
    )


def _sd15() -> dict[str, Any]:
    return {
        "unet": _unet(_unet_config(attention_head_dim=8)),
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_text_config()),
        "tokenizer": tiny_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
    }


def _sdxl() -> dict[str, Any]:
    return {
        "unet": _unet(_sdxl_config()),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_text_config()),
        "text_encoder_2": CLIPTextModelWithProjection(_text_config()),
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
        "feature_extractor": None,
        "image_encoder": None,
    }


def _with_instantid(components: dict[str, Any]) -> dict[str, Any]:
    unet = components["unet"]
    config = _sdxl_config() if "text_encoder_2" in components else _unet_config(attention_head_dim=8)
    controlnet = ControlNetModel(conditioning_embedding_out_channels=(16, 32), **config)
    # Training starts these at zero; here they let the picture and the net through.
    nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.5)
    for outlet in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        nn.init.normal_(outlet.get_parameter("weight"), std=0.05)
    return components | {"controlnet": controlnet} | tiny_adapter(unet)
