"""A tiny IP-Adapter and a tiny FaceID for the tiny bases."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from idpersona.adapters.ip_adapter.adapter import FaceID, IPAdapter
from idpersona.adapters.ip_adapter.modules import IPAdapterCrossAttention, IPAdapterProjector, LowRank
from idpersona.seams.layers import attention_layers

IMAGE_DIM, FACE_DIM, RANK = 24, 32, 4


def _loud(module: nn.Module) -> None:
    for weight in module.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)


def tiny_ip_adapter(unet: UNet2DConditionModel, *, seed: int = 0) -> IPAdapter:
    """An adapter of kind ``base`` that fits ``unet``; torch's random state stays."""
    width = unet.config["cross_attention_dim"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = IPAdapterProjector(
            "base",
            {"image_embed_dim": IMAGE_DIM, "cross_attention_dim": width, "num_image_text_embeds": 4},
        )
        # A picture of zeros must not give tokens of zeros here, or unconditional rows would show nothing.
        nn.init.normal_(projector.projection.norm.bias)
        attention = IPAdapterCrossAttention.from_unet(unet)
        _loud(attention)
    return IPAdapter(projector.eval(), attention.eval())


def tiny_faceid(unet: UNet2DConditionModel, *, seed: int = 0) -> FaceID:
    """An adapter of kind ``faceid`` with its LoRA on all attention layers; torch's random state stays."""
    width = unet.config["cross_attention_dim"]
    layers = attention_layers(unet, cross=False) | attention_layers(unet, cross=True)
    geometry = {
        name: {
            "to_q": (layer.query_dim, layer.inner_dim, RANK),
            "to_k": (layer.cross_attention_dim, layer.inner_dim, RANK),
            "to_v": (layer.cross_attention_dim, layer.inner_dim, RANK),
            "to_out": (layer.inner_dim, layer.out_dim, RANK),
        }
        for name, layer in layers.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"image_embed_dim": FACE_DIM, "cross_attention_dim": width, "mult": 2, "num_tokens": 4}
        projector = IPAdapterProjector("faceid", sizes)
        attention, lora = IPAdapterCrossAttention.from_unet(unet), LowRank(geometry)
        _loud(attention)
        _loud(lora)
        for name, weight in lora.named_parameters():
            if ".up." in name:
                weight.data *= 0.2  # a change, not a new model
    return FaceID(projector.eval(), attention.eval(), lora.eval())
