"""IP-Adapter and FaceID draw what diffusers' own loading of the same file draws, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import save_file

from idpersona.adapters import load_adapter
from idpersona.errors import BadInput, CheckpointError
from idpersona.identity import Feature, Identity
from idpersona.testing import tiny_components
from idpersona.testing.ip_adapter import FACE_DIM, IMAGE_DIM, published, tiny_faceid, tiny_ip_adapter

CLASSES: dict[str, Any] = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


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


def test_faceid_on_a_processor_that_is_not_ours_to_repeat(pipe: Any) -> None:
    """The identity's query holds FaceID's own change of to_q there, too, whoever came first."""

    class Own(AttnProcessor2_0):
        pass

    faceid, who = tiny_faceid(pipe.unet), person("buffalo_l", FACE_DIM)
    stock = dict(pipe.unet.attn_processors)
    with faceid.attach(pipe, who, scale=2.0):
        expected = draw(pipe)
    other = tiny_ip_adapter(pipe.unet)
    try:
        pipe.unet.set_attn_processor(Own())
        with faceid.attach(pipe, who, scale=2.0):
            assert largest(draw(pipe), expected) < 1e-3
        first = other.attach(pipe, person("clip-h-embed", IMAGE_DIM))
        with first, faceid.attach(pipe, who, scale=2.0):
            both = draw(pipe)
    finally:
        pipe.unet.set_attn_processor(stock)
    with other.attach(pipe, person("clip-h-embed", IMAGE_DIM)), faceid.attach(pipe, who, scale=2.0):
        assert largest(draw(pipe), both) < 1e-3


def test_what_a_file_is_stands_in_its_own_name(pipe: Any, tmp_path: Path) -> None:
    """Not in that of the folder it lies in."""
    (tmp_path / "faceid-plusv2").mkdir()
    file = tmp_path / "faceid-plusv2" / "ip-adapter-faceid_tiny.bin"
    torch.save(published(tiny_faceid(pipe.unet), pipe.unet), file)
    for place in (file, file.parent):
        assert load_adapter(place, base=pipe).config.shortcut is False


def test_parts_and_options_that_are_not_there_are_refused(pipe: Any) -> None:
    plain, who = tiny_ip_adapter(pipe.unet), person("clip-h-embed", IMAGE_DIM)
    with pytest.raises(BadInput, match="has no LoRA"):
        plain.attach(pipe, who, scale={"lora": 0.5}).__enter__()
    with pytest.raises(BadInput, match="FaceID-Plus v2 alone"):
        tiny_faceid(pipe.unet).attach(pipe, person("buffalo_l", FACE_DIM), structure=0.5).__enter__()
    with pytest.raises(BadInput, match=r"names its parts .identity, lora. or layers.*'identitty' is neither"):
        plain.attach(pipe, who, scale={"identitty": 0.5}).__enter__()


def test_a_file_of_another_base_is_refused(tmp_path: Path) -> None:
    small, large = new_pipe("sd15"), new_pipe("sdxl")
    torch.save(published(tiny_ip_adapter(small.unet), small.unet), tmp_path / "ip-adapter_tiny.bin")
    with pytest.raises(CheckpointError, match=r"ip-adapter_tiny\.bin"):
        load_adapter(tmp_path / "ip-adapter_tiny.bin", base=large)
