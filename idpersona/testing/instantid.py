"""What InstantID adds to a tiny pipeline: projector, identity cross-attention, an embedding, a pose."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

EMBEDDING_DIM = 512


def tiny_adapter(unet: UNet2DConditionModel) -> dict[str, nn.Module]:
    """``projector`` and ``cross_attention`` that fit ``unet``, weights drawn from torch's state."""
    from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector

    projector = InstantIDProjector(
        embedding_dim=EMBEDDING_DIM,
        dim=32,
        depth=2,
        dim_head=64,  # as published: a checkpoint does not show it
        heads=1,
        num_tokens=4,
        output_dim=unet.config["cross_attention_dim"],
        ff_mult=2,
    )
    cross_attention = IdentityCrossAttention.from_unet(unet)
    for weight in cross_attention.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return {"projector": projector, "cross_attention": cross_attention}


def tiny_identity_inputs() -> dict[str, Any]:
    """``image`` float32 [1, 3, 64, 64] in [0, 1], ``image_embeds`` float32 [1, 512]: a made-up person."""
    generator = torch.Generator().manual_seed(1234)
    image = torch.zeros(1, 3, 64, 64)
    for channels, x, y in (
        ((0,), 22, 24),
        ((1,), 42, 24),
        ((2,), 32, 34),
        ((0, 1), 25, 44),
        ((0, 2), 40, 44),
    ):
        for channel in channels:
            image[:, channel, y - 3 : y + 3, x - 3 : x + 3] = 1.0
    return {"image": image, "image_embeds": torch.randn(1, EMBEDDING_DIM, generator=generator)}
