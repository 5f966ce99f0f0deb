"""A tiny W+ adapter for the tiny bases."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from idpersona.adapters.wplus.adapter import WPlus
from idpersona.adapters.wplus.config import WPlusConfig
from idpersona.adapters.wplus.directions import WPlusDirections
from idpersona.adapters.wplus.modules import WPlusCrossAttention, WPlusMapper

ROWS, DIM, GROUPS = 8, 32, (2, 2, 4)


def tiny_wplus(unet: UNet2DConditionModel, *, seed: int = 0) -> WPlus:
    """An adapter that fits ``unet``; its weights come from ``seed`` and torch's random state stays."""
    width = unet.config["cross_attention_dim"]
    config = WPlusConfig(rows=ROWS, dim=DIM, groups=GROUPS, output_dim=width, delay=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mapper = WPlusMapper(DIM, GROUPS, width)
        attention = WPlusCrossAttention.from_unet(unet)
        for weight in attention.parameters():
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        # Training moves it from zero; the unconditional tokens are this alone.
        nn.init.normal_(mapper.norm.bias)
        directions = WPlusDirections(["smile", "age"], ROWS, DIM)
        nn.init.normal_(directions.get_buffer("steps"))
    return WPlus(mapper.eval(), attention.eval(), config, directions.eval())
