"""IP-Adapter and FaceID draw what diffusers' own loading of the same file draws, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from idpersona.adapters import load_adapter
from idpersona.adapters.layer_numbers import place_of
from idpersona.errors import CheckpointError
from idpersona.identity import Feature, Identity
from idpersona.seams.layers import attention_layers
from idpersona.testing import tiny_components
from idpersona.testing.ip_adapter import FACE_DIM, IMAGE_DIM, tiny_faceid, tiny_ip_adapter

CLASSES: dict[str, Any] = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
_PUBLISHED = {"image_embeds": "proj", "norm": "norm"}
"""Names of diffusers' ``ImageProjection`` -> names in the published file."""


def new_pipe(kind: str) -> Any:
    parts = tiny_components(kind) | ({"requires_safety_checker": False} if kind == "sd15" else {})
    pipe = CLASSES[kind](**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=list(CLASSES))
def pipe(request: pytest.FixtureRequest) -> Any:
    return new_pipe(request.param)


def kind_of(pipe: Any) -> str:
    return "sdxl" if isinstance(pipe, StableDiffusionXLPipeline) else "sd15"


def published(adapter: Any, unet: Any) -> dict[str, dict[str, torch.Tensor]]:
    """The layout of the published files, written from their description and not from our reader."""
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


def person(name: str, dim: int) -> Identity:
    values = np.random.default_rng(3).standard_normal((1, dim)).astype(np.float32)
    return Identity("object" if "clip" in name else "face", {name: Feature(name, values)})


def draw(pipe: Any, **given: Any) -> torch.Tensor:
    return pipe(
        "a photo of a smiling man",
        num_inference_steps=2,
        guidance_scale=5.0,
        height=64,
        width=64,
        output_type="latent",
        generator=torch.Generator().manual_seed(7),
        **given,
    ).images


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_ip_adapter_equals_diffusers(pipe: Any, tmp_path: Path, scale: float) -> None:
    own = tiny_ip_adapter(pipe.unet)
    state = published(own, pipe.unet)
    torch.save(state, tmp_path / "ip-adapter_tiny.bin")
    adapter = load_adapter(tmp_path / "ip-adapter_tiny.bin", base=pipe)
    assert adapter.name == "ip-adapter"
    who = person("clip-h-embed", IMAGE_DIM)
    with adapter.attach(pipe, who, scale=scale):
        ours = draw(pipe)

    other = new_pipe(kind_of(pipe))
    other.load_ip_adapter(state, subfolder=None, weight_name=None, image_encoder_folder=None)
    other.set_ip_adapter_scale(scale)
    seen = torch.tensor(who.features["clip-h-embed"].values)[None]
    theirs = draw(other, ip_adapter_image_embeds=[torch.cat([torch.zeros_like(seen), seen])])
    assert largest(ours, theirs) < 1e-4
    assert largest(ours, draw(pipe)) > 1e-2


def test_faceid_equals_diffusers(pipe: Any, tmp_path: Path) -> None:
    own = tiny_faceid(pipe.unet)
    state = published(own, pipe.unet)
    flat = {
        f"{part}.{key}": value.contiguous() for part, values in state.items() for key, value in values.items()
    }
    save_file(flat, tmp_path / "ip-adapter-faceid_tiny.safetensors")
    adapter = load_adapter(tmp_path / "ip-adapter-faceid_tiny.safetensors", base=pipe)
    assert adapter.name == "faceid"
    who = person("buffalo_l", FACE_DIM)
    with adapter.attach(pipe, who):
        ours = draw(pipe)

    other = new_pipe(kind_of(pipe))
    other.load_ip_adapter(state, subfolder=None, weight_name=None, image_encoder_folder=None)
    other.set_ip_adapter_scale(1.0)
    face = torch.nn.functional.normalize(torch.tensor(who.features["buffalo_l"].values))[None]
    theirs = draw(other, ip_adapter_image_embeds=[torch.cat([torch.zeros_like(face), face])])
    assert largest(ours, theirs) < 1e-3
    # What diffusers leaves behind, and this does not.
    base = draw(pipe)
    other.unload_ip_adapter()
    assert largest(draw(other), base) > 1e-2
    assert torch.equal(base, draw(new_pipe(kind_of(pipe))))
    assert not hasattr(pipe.unet, "peft_config")


def test_a_file_of_another_base_is_refused(tmp_path: Path) -> None:
    small, large = new_pipe("sd15"), new_pipe("sdxl")
    torch.save(published(tiny_ip_adapter(small.unet), small.unet), tmp_path / "ip-adapter_tiny.bin")
    with pytest.raises(CheckpointError, match=r"ip-adapter_tiny\.bin"):
        load_adapter(tmp_path / "ip-adapter_tiny.bin", base=large)
