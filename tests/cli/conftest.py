"""A tiny real base, a tiny real adapter and an identity file, and a way to call the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from idpersona.testing.command import Outcome, Run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder with ``base`` (a stock SD1.x pipeline, 64 px) and ``adapter`` (InstantID for dlib on it)."""
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from idpersona.adapters.instantid.adapter import InstantID
    from idpersona.adapters.instantid.config import InstantIDConfig
    from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
    from idpersona.testing import tiny_components

    folder = tmp_path_factory.mktemp("tiny")
    StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False).save_pretrained(
        folder / "base"
    )
    parts = tiny_components("instantid-sd15")
    sizes = {
        "embedding_dim": 128,
        "dim": 32,
        "depth": 2,
        "dim_head": 16,
        "heads": 2,
        "num_tokens": 4,
        "output_dim": parts["unet"].config["cross_attention_dim"],
        "ff_mult": 2,
    }
    torch.manual_seed(0)
    cross = IdentityCrossAttention.from_unet(parts["unet"])
    for weight in cross.parameters():
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    pictures = {"resize_max_side": 64, "resize_min_side": 64, "resize_multiple": 16}
    config = InstantIDConfig(encoder="dlib", kps_radius=3, kps_stick_width=1, **pictures, **sizes)
    InstantID(InstantIDProjector(**sizes), cross, parts["controlnet"], config).save_pretrained(
        folder / "adapter"
    )
    return folder


@pytest.fixture(scope="session")
def me(tmp_path_factory) -> Path:
    """Identity file of the sample astronaut."""
    from idpersona import read_identity

    return read_identity("sample:astronaut").save(tmp_path_factory.mktemp("me") / "me.safetensors")


@pytest.fixture(scope="session")
def drawn(tiny, me, tmp_path_factory) -> Path:
    """A picture drawn on the tiny base."""
    from idpersona.cli.main import main

    path = tmp_path_factory.mktemp("drawn") / "drawn.png"
    words = [
        "generate",
        "--base",
        tiny / "base",
        "--adapter",
        tiny / "adapter",
        "--identity",
        me,
        "--steps",
        1,
    ]
    assert main([str(word) for word in (*words, "--prompt", "a person", "--device", "cpu", "-o", path)]) == 0
    return path


@pytest.fixture
def draw(run, tiny, me) -> Run:
    """Call ``generate`` on the tiny base, two steps, with whatever else is given."""

    def call(*words: object, identity: bool = True, prompt: bool = True) -> Outcome:
        fixed: list[object] = ["generate", "--base", tiny / "base", "--adapter", tiny / "adapter"]
        fixed += ["--device", "cpu"]
        fixed += ["--identity", me] if identity else []
        fixed += ["--prompt", "a smiling person"] if prompt else []
        fixed += [] if "--steps" in words else ["--steps", 2]
        return run(*fixed, *words)

    return call
