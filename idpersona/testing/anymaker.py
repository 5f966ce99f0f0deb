"""A tiny AnyMaker for the tiny bases, with two encoders."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from idpersona.adapters.anymaker.adapter import AnyMaker, local_layers
from idpersona.adapters.anymaker.config import AnyMakerConfig
from idpersona.adapters.anymaker.modules import AnyMakerCrossAttention, AnyMakerMapper

TOKENS, DIMS = (17, 10), (32, 64)


def tiny_anymaker(unet: UNet2DConditionModel, *, seed: int = 0) -> AnyMaker:
    """An adapter that fits ``unet``; its weights come from ``seed`` and torch's random state stays."""
    config = AnyMakerConfig(
        dims=DIMS,
        hidden=64,
        output_dim=unet.config["cross_attention_dim"],
        depth=1,
        words=("man", "woman", "drawing"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mapper = AnyMakerMapper(**config.mapper_sizes())
        # Training starts last layers at zero; here they let the object through.
        nn.init.normal_(mapper.global_mlp[3].get_parameter("weight"), std=0.3)
        for weight in mapper.mixing.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
        attention = AnyMakerCrossAttention.from_unet(unet, layers=local_layers(unet))
        for weight in attention.parameters():
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return AnyMaker(mapper.eval(), attention.eval(), config)
