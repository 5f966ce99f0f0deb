"""Configurations of the full-size denoisers, for tests and counts on the meta device."""

from __future__ import annotations

from typing import Any

SD15_UNET: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
"""SD1.5: diffusers' defaults but for these."""

SDXL_ENCODER: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""SDXL's first half, that of its ControlNets."""

SDXL_UNET: dict[str, Any] = SDXL_ENCODER | {
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
}
