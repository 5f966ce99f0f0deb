"""A tiny Infinite-ID for the tiny bases, and the features that it is told of a person."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from idpersona.adapters.infinite_id.adapter import InfiniteID
from idpersona.adapters.infinite_id.config import InfiniteIDConfig
from idpersona.adapters.infinite_id.modules import InfiniteIDCrossAttention, InfiniteIDMapper

IMAGE_TOKENS, IMAGE_DIM, FACE_DIM = 17, 32, 512


def tiny_infinite_id(unet: UNet2DConditionModel, *, seed: int = 0) -> InfiniteID:
    """An adapter that fits ``unet``; its weights come from ``seed`` and torch's random state stays."""
    config = InfiniteIDConfig(
        image_tokens=IMAGE_TOKENS,
        image_dim=IMAGE_DIM,
        face_dim=FACE_DIM,
        face_hidden=32,
        output_dim=unet.config["cross_attention_dim"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mapper = InfiniteIDMapper(**config.mapper_sizes())
        attention = InfiniteIDCrossAttention.from_unet(unet)
        for weight in attention.parameters():
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return InfiniteID(mapper.eval(), attention.eval(), config)
