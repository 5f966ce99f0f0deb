"""Tiny SDXL, IdentityNet and InstantID whose every tensor is a function of its own name and shape.

Nothing depends on a random generator's state, on construction order or on the version of a library, so the
reference outputs beside this file can be compared with on any machine. See README.md.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from idpersona.testing.tokenizer import tiny_tokenizer

HERE = Path(__file__).parent
WIDTH = 64


def named_tensor(name: str, shape: tuple[int, ...], scale: float | None = None) -> Tensor:
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = rng.standard_normal(shape).astype(np.float32)
    if scale is None:
        scale = 1.0 / max(int(np.prod(shape[1:])), 1) ** 0.5 if len(shape) > 1 else 0.05
    return torch.from_numpy(values * np.float32(scale))


def projector_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """Weights of norms scatter around 1, all other tensors around 0."""
    norm = len(shape) == 1 and key.endswith("weight")
    return named_tensor(f"image_proj.{key}", shape) + (1.0 if norm else 0.0)


def _fill(module: nn.Module, prefix: str) -> Any:
    state = module.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            drawn = named_tensor(f"{prefix}.{key}", tuple(value.shape))
            state[key] = drawn + 1.0 if key.endswith("weight") and value.ndim == 1 else drawn
    module.load_state_dict(state)
    return module.eval()


def build_components() -> dict[str, Any]:
    """Constructor arguments of ``StableDiffusionXLControlNetPipeline``."""
    common: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "in_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "transformer_layers_per_block": (1, 2),
        "projection_class_embeddings_input_dim": 80,
        "cross_attention_dim": WIDTH,
    }
    unet = UNet2DConditionModel(
        sample_size=32, out_channels=4, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **common
    )
    vae: dict[str, Any] = {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
    }
    text = CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=5,
        projection_dim=32,
        hidden_act="gelu",
    )
    return {
        "unet": _fill(unet, "unet"),
        "controlnet": _fill(
            ControlNetModel(conditioning_embedding_out_channels=(16, 32), **common), "controlnet"
        ),
        "vae": _fill(AutoencoderKL(**vae), "vae"),
        "text_encoder": _fill(CLIPTextModel(text), "te"),
        "text_encoder_2": _fill(CLIPTextModelWithProjection(text), "te2"),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
        ),
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
        "feature_extractor": None,
        "image_encoder": None,
    }


def build_checkpoint(unet: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """The content of a published ``ip-adapter.bin`` for ``unet``; cross-attention layers have odd numbers."""
    shapes: dict[str, list[int]] = json.loads((HERE / "full_resampler_keys.json").read_text())
    # The full-size projector, shrunk: 1280 -> 64, 2048 -> 64, one layer of attention 1280 -> 2 heads of 64.
    sizes = {1280: WIDTH, 2048: WIDTH, 2560: 4 * WIDTH, 5120: 4 * WIDTH}
    image_proj = {}
    for key, full in shapes.items():
        shape: list[int] = [sizes.get(side, side) for side in full]
        if key.endswith("to_q.weight"):
            shape[0] = 2 * WIDTH
        elif key.endswith("to_out.weight"):
            shape[1] = 2 * WIDTH
        image_proj[key] = projector_tensor(key, tuple(shape))
    ip_adapter = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer: Any = unet.get_submodule(name.removesuffix(".processor"))
            channels = layer.to_q.in_features
            for kind in ("to_k_ip", "to_v_ip"):
                tensor = named_tensor(f"ip.{number}.{kind}", (channels, WIDTH))
                ip_adapter[f"{number}.{kind}.weight"] = tensor
    return {"image_proj": image_proj, "ip_adapter": ip_adapter}


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """The reference's tensors by name."""
    return load_file(HERE / "instantid.safetensors")


@pytest.fixture(scope="session")
def components() -> dict[str, Any]:
    return build_components()


@pytest.fixture(scope="session")
def checkpoint(components: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    return build_checkpoint(components["unet"])


@pytest.fixture(scope="session")
def checkpoint_file(
    checkpoint: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    file = tmp_path_factory.mktemp("instantid") / "ip-adapter.bin"
    torch.save(checkpoint, file)
    return file


@pytest.fixture
def full_projector_state() -> dict[str, Tensor]:
    """Tensors of a projector of published size, 330 MB."""
    shapes = json.loads((HERE / "full_resampler_keys.json").read_text())
    return {key: projector_tensor(key, tuple(shape)) for key, shape in shapes.items()}


@pytest.fixture
def call(golden: dict[str, Tensor]) -> dict[str, Any]:
    """The call that the reference was asked."""
    return {
        "prompt": "a photo of a man",
        "image": golden["kps_image"].permute(2, 0, 1)[None].float() / 255,
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "controlnet_conditioning_scale": 0.8,
        "output_type": "latent",
        "latents": golden["latents_in"].clone(),
        "height": 64,
        "width": 64,
    }
