"""A tiny IP-Adapter and a tiny FaceID for the tiny bases."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from idpersona.adapters.ip_adapter.adapter import FaceID, IPAdapter
from idpersona.adapters.ip_adapter.modules import IPAdapterCrossAttention, IPAdapterProjector, LowRank
from idpersona.adapters.layer_numbers import place_of
from idpersona.seams.layers import attention_layers

IMAGE_DIM, FACE_DIM, RANK = 24, 32, 4
_PUBLISHED = {"image_embeds": "proj", "norm": "norm"}
"""Names of diffusers' ``ImageProjection`` -> names in the published file."""


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


def published(adapter: IPAdapter, unet: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """``adapter`` in the layout of the published files, after their description and not after our reader."""
    selves = sorted(attention_layers(unet, cross=False), key=place_of)
    crossings = sorted(attention_layers(unet, cross=True), key=place_of)
    numbers = {name: 2 * n for n, name in enumerate(selves)}
    numbers |= {name: 2 * n + 1 for n, name in enumerate(crossings)}
    projection = {}
    for key, value in adapter.projector.projection.state_dict().items():
        if adapter.kind == "base":
            head, _, rest = key.partition(".")
            projection[f"{_PUBLISHED[head]}.{rest}"] = value
        else:
            named = key.replace("ff.net.0.proj", "proj.0").replace("ff.net.2", "proj.2")
            projection[named] = value
    layers: dict[str, torch.Tensor] = {}
    for key, value in adapter.cross_attention.state_dict().items():
        layer, part = key.rsplit(".", 2)[0], key.split(".")[-2]
        layers[f"{numbers[layer]}.{part}.weight"] = value
    if adapter.lora is not None:
        for key, value in adapter.lora.state_dict().items():
            layer, projected, half, _ = key.rsplit(".", 3)
            layers[f"{numbers[layer]}.{projected}_lora.{half}.weight"] = value
    return {"image_proj": projection, "ip_adapter": layers}
