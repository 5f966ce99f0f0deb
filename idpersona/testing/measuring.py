"""Tiny real networks in the layouts of those that measure edits, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from idpersona.testing.tokenizer import VOCAB_SIZE, tiny_tokenizer

FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192)} | {
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}
"""Channels into, within and out of each half of SqueezeNet 1.1's blocks, by their places in ``features``."""
LOOKED_AT = (64, 128, 256, 384, 384, 512, 512)
"""Channels of the layers that LPIPS compares."""


def tiny_dino(*, seed: int = 0) -> ViTModel:
    """A ViT of 32 px in 17 tokens, three layers of four heads; torch's random state stays."""
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _spread(ViTModel(config, add_pooling_layer=False))


def tiny_clip(*, seed: int = 2) -> CLIPModel:
    """CLIP of 32 px for :func:`~idpersona.testing.tokenizer.tiny_tokenizer`; torch's random state stays."""
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "projection_dim": 16,
    }
    ends: dict[str, Any] = {"bos_token_id": VOCAB_SIZE - 2, "eos_token_id": VOCAB_SIZE - 1}
    config = CLIPConfig(
        text_config={**small, **ends, "pad_token_id": VOCAB_SIZE - 1, "vocab_size": VOCAB_SIZE},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _spread(CLIPModel(config))


def _spread(model: Any) -> Any:
    # As transformers draws them, weights are so small that all pictures look the same.
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def squeeze_states(*, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random tensors with the keys and shapes of torchvision's SqueezeNet 1.1 and of LPIPS' heads for it."""
    generator = torch.Generator().manual_seed(seed)

    def conv(name: str, into: int, out: int, side: int) -> dict[str, Tensor]:
        spread = (2 / (into * side * side)) ** 0.5
        weight = torch.randn(out, into, side, side, generator=generator) * spread
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(out, generator=generator) * 0.1}

    state = conv("features.0", 3, 64, 3)
    for place, (into, within, out) in FIRES.items():
        state |= conv(f"features.{place}.squeeze", into, within, 1)
        state |= conv(f"features.{place}.expand1x1", within, out, 1)
        state |= conv(f"features.{place}.expand3x3", within, out, 3)
    state |= conv("classifier.1", 512, 1000, 1)
    heads = {
        f"lin{n}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for n, channels in enumerate(LOOKED_AT)
    }
    return state, heads


def write_measures(folder: Path) -> Path:
    """``dino-vitb8``, ``clip-vit-l14`` and ``lpips-squeeze`` below ``folder``, as the registry finds them."""
    tiny_dino().save_pretrained(folder / "dino-vitb8")
    tiny_clip().save_pretrained(folder / "clip-vit-l14")
    tiny_tokenizer().save_pretrained(folder / "clip-vit-l14")
    place = folder / "lpips-squeeze"
    place.mkdir()
    for name, state in zip(("squeezenet1_1-b8a52dc0", "squeeze"), squeeze_states(), strict=True):
        torch.save(state, place / f"{name}.pth")
    return folder
