"""Tiny transformers that look at objects: encoders of the registry's kinds, and a segmentation model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
    ViTMAEConfig,
    ViTMAEModel,
)

DIMS = {"dinov2": 32, "mae": 64}
"""Width of a token of each tiny encoder."""


def tiny_object_encoders(*, seed: int = 0) -> dict[str, Any]:
    """``dinov2`` and ``mae`` as tiny models of transformers; torch's random state stays."""
    small: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "dinov2": Dinov2Model(
                Dinov2Config(image_size=56, patch_size=14, hidden_size=DIMS["dinov2"], **small)
            ).eval(),
            "mae": ViTMAEModel(
                ViTMAEConfig(
                    image_size=48, patch_size=16, hidden_size=DIMS["mae"], intermediate_size=64, **small
                )
            ).eval(),
        }


def tiny_segmenter(*, sure: bool = True) -> Any:
    """A tiny Mask2Former in which every query is certain of its mask, or none; torch's random state stays."""
    stages: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    backbone = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=3, **stages)
    labels: dict[str, Any] = {"num_labels": 3}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        **labels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        made.class_predictor.weight.mul_(0.1)
        # Of three classes and "nothing", one is certain for every query, or nothing is.
        made.class_predictor.bias.copy_(torch.tensor([6.0, 0, 0, 0] if sure else [0, 0, 0, 6.0]))
    return made.eval()
