"""The models that ``diffusion.py`` trains: the embedded base and InstantID on it, all in stock classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.attention.kernels import eager, sdpa
from idpersona.seams.cross import cross_scope
from idpersona.seams.tokens import TokenBranch
from idpersona.training.data.framing import EYE_DISTANCE, EYE_LINE, MEAN_FACE, SIDE
from idpersona.training.objectives.diffusion_config import DiffusionConfig
from idpersona.training.objectives.diffusion_data import (
    DESCRIPTOR,
    KPS_RADIUS,
    KPS_STICK_WIDTH,
    DiffusionBatch,
    draw,
)
from idpersona.training.weights import channels_last, mend_vae_config

_SD15_WIDTH = 320


@dataclass(frozen=True)
class Base:
    """The trained parts of the base, and what belongs to them."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderTiny


def build_base(
    config: DiffusionConfig, tokenizer: CLIPTokenizer, vae: AutoencoderTiny, init_from: str | None
) -> Base:
    """Fresh models of the configured size, or those of the pipeline folder ``<init_from>/base``."""
    if init_from:
        folder = Path(init_from) / "base"
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        return Base(channels_last(unet), text_encoder, tokenizer, vae)
    depth = len(config.channels)
    sizes: dict[str, Any] = {
        "sample_size": SIDE // 8,
        "in_channels": vae.config["latent_channels"],
        "out_channels": vae.config["latent_channels"],
        "block_out_channels": config.channels,
        "layers_per_block": config.layers,
        "down_block_types": ("CrossAttnDownBlock2D",) * depth,
        "up_block_types": ("CrossAttnUpBlock2D",) * depth,
        "cross_attention_dim": config.text_width,
        "attention_head_dim": tuple(c // 32 for c in config.channels),
        "use_linear_projection": True,
    }
    text_sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "intermediate_size": config.text_width * 3,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.text_width // 32,
        "max_position_embeddings": config.prompt_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attention_dropout": 0.0,
    }
    unet = UNet2DConditionModel(**sizes)
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_sizes))
    # transformers' own start (0.02) drowns the words in what the layers add: measured, the encoder then gave
    # every prompt nearly the same vectors after a thousand steps, and the UNet had nothing to follow.
    nn.init.normal_(next(text_encoder.get_input_embeddings().parameters()))
    return Base(channels_last(unet), text_encoder, tokenizer, vae)


def build_identity(
    config: DiffusionConfig, unet: UNet2DConditionModel, descriptors: np.ndarray, init_from: str | None
) -> InstantID:
    """InstantID for the base: that of the folder ``<init_from>/instantid`` where there is one, else fresh.

    A fresh projector starts with ``descriptors`` [N, 128] standardised, fresh cross-attention and IdentityNet
    from the base's own weights. Raises CheckpointError when the adapter is of another base.
    """
    folder = Path(init_from) / "instantid" if init_from else None
    if folder and folder.is_dir():
        adapter = InstantID.from_pretrained(folder).to(dtype=torch.float32)
        adapter.check_fits(unet)
        adapter.identitynet = channels_last(adapter.identitynet or fresh_identitynet(unet))
        return adapter
    sizes = instantid_sizes(config.tokens, config.text_width)
    projector = InstantIDProjector(**sizes.projector_sizes())
    standardise_input(projector.proj_in, descriptors)
    return InstantID(
        projector,
        IdentityCrossAttention.from_unet(unet, copy_weights=True),
        channels_last(fresh_identitynet(unet)),
        sizes,
    )


def instantid_sizes(tokens: int, text_width: int) -> InstantIDConfig:
    """The configuration of InstantID for the embedded model: ``tokens`` for a face, of ``text_width``."""
    return InstantIDConfig(
        encoder="dlib",
        embedding_dim=DESCRIPTOR,
        dim=192,
        depth=2,
        dim_head=32,
        heads=6,
        num_tokens=tokens,
        output_dim=text_width,
        framing=(EYE_DISTANCE, EYE_LINE),
        framing_freedom=(0.75, 1.2, 0.12),
        kps_radius=KPS_RADIUS,
        kps_stick_width=KPS_STICK_WIDTH,
        resize_max_side=SIDE,
        resize_min_side=SIDE,
        resize_multiple=8,
    )


@torch.no_grad()
def standardise_input(layer: nn.Linear, samples: np.ndarray) -> None:
    """Fold "minus mean, divided by spread" of ``samples`` [N, features] into a fresh input layer.

    dlib's descriptors of different people lie close together beside a large common part; as they are, the
    tokens of any two people start nearly equal, and training makes them more so.
    """
    mean = torch.from_numpy(samples.mean(axis=0))
    spread = torch.from_numpy(samples.std(axis=0))
    layer.weight.div_(spread)
    layer.bias.sub_(layer.weight @ mean)


def predict(
    unet: Any, adapter: InstantID, noisy: Tensor, context: Tensor, tokens: Tensor, batch: DiffusionBatch
) -> Tensor:
    """What ``unet`` predicts where the first ``batch.people`` rows see their person and the others do not.

    Args:
        noisy: latents [B, C, h, w], in the order of the batch.
        context: encoded captions [B, n, D].
        tokens: of the people, [people, m, D].
    """
    people, rest = batch.people, len(noisy) - batch.people
    identitynet: Any = adapter.identitynet
    down, mid = identitynet(
        noisy[:people],
        batch.timesteps[:people],
        encoder_hidden_states=tokens,
        controlnet_cond=batch.drawings,
        return_dict=False,
    )
    gate = (torch.arange(len(noisy), device=noisy.device) < people).float()
    # On a CPU the fused kernel's backward pass in bf16 takes five times as long as the plain products.
    kernel = sdpa if noisy.is_cuda else eager
    branch = TokenBranch(adapter.cross_attention, _pad_rows(tokens, rest), scale=gate, kernel=kernel)
    with cross_scope(unet, [branch]):
        return unet(
            noisy,
            batch.timesteps,
            context,
            down_block_additional_residuals=tuple(_pad_rows(r, rest) for r in down),
            mid_block_additional_residual=_pad_rows(mid, rest),
            return_dict=False,
        )[0]


def base_pipeline(base: Base, schedule: Mapping[str, Any]) -> StableDiffusionPipeline:
    """The stock pipeline of these very parts."""
    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": DDIMScheduler(**schedule),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return StableDiffusionPipeline(**parts)


def export_base(base: Base, schedule: Mapping[str, Any], folder: Path) -> None:
    """A stock ``StableDiffusionPipeline`` folder."""
    base_pipeline(base, schedule).save_pretrained(folder)
    mend_vae_config(folder / "vae")


def fresh_identitynet(unet: UNet2DConditionModel, factor: int = 8) -> ControlNetModel:
    """IdentityNet at its start: the base's own encoder, blind to the drawing and adding nothing yet.

    Its encoder of drawings is as wide as published, for a base narrower than SD1.5 a half or less of that.
    ``factor``: pixels to a latent, along a side.
    """
    wide = unet.config["block_out_channels"][0] >= _SD15_WIDTH
    # Each but the first halves the drawing.
    widths = ((16, 32, 96, 256) if wide else (8, 16, 32, 64))[: factor.bit_length()]
    net = ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=widths)
    if unet.device.type != "meta":
        let_drawings_through(net)
    return net


@torch.no_grad()
def let_drawings_through(net: ControlNetModel) -> None:
    """Scale the drawing encoder's layers, one after the other, to outputs of unit spread, its last one aside.

    Layer-sequential unit variance (Mishkin & Matas, arXiv:1511.06422), on a typical drawing. As diffusers
    starts them, these eight layers leave a ten-thousandth of a drawing that is nine tenths black already:
    measured, it was without any effect after 50,000 samples.
    """
    encoder: Any = net.controlnet_cond_embedding
    points = MEAN_FACE * (EYE_DISTANCE * SIDE) + np.array([0.5, EYE_LINE]) * SIDE
    drawing = torch.tensor(draw(points)).permute(2, 0, 1)[None].float().div(255)
    value = drawing.to(encoder.conv_in.weight.device, encoder.conv_in.weight.dtype)
    for layer in (encoder.conv_in, *encoder.blocks):
        layer.bias.zero_()
        layer.weight.div_(layer(value).std())
        value = torch.nn.functional.silu(layer(value))


def _pad_rows(value: Tensor, rows: int) -> Tensor:
    return torch.cat([value, value.new_zeros(rows, *value.shape[1:])]) if rows else value
