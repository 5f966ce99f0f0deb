"""A tiny safety checker of Stable Diffusion."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor


def tiny_safety_checker(threshold: float = -2.0) -> dict[str, Any]:
    """``safety_checker`` and ``feature_extractor`` for a pipeline: the real classes with random weights.

    It fires where a picture's cosine to any concept exceeds ``threshold``: at -2 always, at 2 never.
    """
    sizes: Any = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 2
    vision = {**sizes, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = StableDiffusionSafetyChecker(
            CLIPConfig(vision_config=vision, text_config=sizes, projection_dim=16)
        )
        for name in ("concept_embeds", "special_care_embeds"):
            torch.nn.init.normal_(getattr(module, name))
    torch.nn.init.constant_(module.concept_embeds_weights, threshold)
    torch.nn.init.constant_(module.special_care_embeds_weights, 2.0)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return {"safety_checker": module.eval(), "feature_extractor": pictures}
