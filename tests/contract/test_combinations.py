"""Adapters together: their terms add up whatever the order; what cannot go together is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig

from idpersona.adapters import load_adapter
from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.errors import SeamError
from idpersona.identity import Feature, Identity
from idpersona.testing import ip_adapter, tiny_components, wplus
from idpersona.testing.infinite_id import tiny_infinite_id
from idpersona.testing.ip_adapter import tiny_faceid
from idpersona.testing.wplus import tiny_wplus

PROMPT = "a photo of a smiling man"


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def instantid() -> InstantID:
    parts = tiny_components("instantid-sd15")
    sizes = {name: parts["projector"].config[name] for name in InstantIDConfig().projector_sizes()}
    config = InstantIDConfig(**sizes, kps_radius=3, kps_stick_width=1)
    return InstantID(parts["projector"], parts["cross_attention"], parts["controlnet"], config)


def person(adapters: list[Any]) -> Identity:
    """Somebody made up, with the features of all ``adapters``."""
    shapes = {
        "antelopev2": (1, 512),
        "buffalo_l": (1, ip_adapter.FACE_DIM),
        "e4e": (wplus.ROWS, wplus.DIM),
    }
    rng = np.random.default_rng(1)
    features = {}
    for adapter in adapters:
        for name in adapter.encoders:
            shape = shapes.get(name)
            if shape is None:
                config = adapter.config
                face = name == config.face_encoder
                shape = (1, config.face_dim) if face else (config.image_tokens, config.image_dim)
            values = rng.standard_normal(shape).astype(np.float32)
            features[name] = Feature(encoder=name, values=values, tokens=shape[0])
    face = np.array([[22, 24], [42, 24], [32, 34], [25, 44], [40, 44]], np.float32)
    return Identity("face", features, keypoints=face, image_size=(64, 64))


def draw(pipe: Any) -> torch.Tensor:
    return pipe(
        PROMPT,
        num_inference_steps=2,
        guidance_scale=5.0,
        height=64,
        width=64,
        output_type="latent",
        generator=torch.Generator().manual_seed(7),
    ).images


def drawn(pipe: Any, *scopes: Any) -> torch.Tensor:
    """The latents inside ``scopes``, entered in this order."""
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(scope)
        return draw(pipe)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def check_together(pipe: Any, one: Any, other: Any, tolerance: float = 1e-4) -> None:
    """Both act, the order does not matter, one of strength 0 is as if it were not there, nothing stays."""
    base = draw(pipe)
    both = drawn(pipe, one(1.0), other(1.0))
    assert distance(both, drawn(pipe, other(1.0), one(1.0))) < tolerance
    assert distance(both, drawn(pipe, one(1.0))) > 1e-2
    assert distance(both, drawn(pipe, other(1.0))) > 1e-2
    assert torch.equal(drawn(pipe, one(1.0), other(0.0)), drawn(pipe, one(1.0)))
    assert torch.equal(drawn(pipe, one(0.0), other(1.0)), drawn(pipe, other(1.0)))
    left, right = one(1.0), other(1.0)
    left.__enter__()
    right.__enter__()
    left.__exit__(None, None, None)
    alone = draw(pipe)
    right.__exit__(None, None, None)
    assert torch.equal(draw(pipe), base)
    assert torch.equal(alone, drawn(pipe, other(1.0)))


def test_instantid_and_decor(pipe: Any, instantid: InstantID) -> None:
    decor, me = load_adapter("decor"), person([instantid])
    check_together(
        pipe,
        lambda scale: instantid.attach(pipe, me, scale=scale),
        lambda scale: decor.attach(pipe, prompt="pencil drawing with straw hats", scale=scale),
    )


def test_infinite_id_and_wplus_on_different_layers(pipe: Any) -> None:
    infinite, w = tiny_infinite_id(pipe.unet), tiny_wplus(pipe.unet)
    me = person([infinite, w])
    only = {"down_blocks": 0.0, "mid_block": 0.0}

    def first(scale: float) -> Any:
        return infinite.attach(pipe, me, scale={"identity": scale, "mixed": scale, "up_blocks": 0.0})

    def second(scale: float) -> Any:
        return w.attach(pipe, me, scale={"identity": scale, **only})

    check_together(pipe, first, second)
    with first(1.0), second(1.0):
        hosts = {name: p for name, p in pipe.unet.attn_processors.items() if ".attn2." in name}
        counts = {name: len(getattr(host, "branches", ())) for name, host in hosts.items()}
    assert set(counts.values()) == {1}, counts


def test_faceid_and_a_lora(pipe: Any) -> None:
    """FaceID's own low-rank changes on top of a LoRA in the base: as if that were part of its weights."""
    own = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    faceid = tiny_faceid(own.unet)
    me = person([faceid])
    base = draw(own)
    torch.manual_seed(0)
    own.unet.add_adapter(
        LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    with_lora = draw(own)
    both = drawn(own, faceid.attach(own, me))
    assert torch.equal(draw(own), with_lora)
    assert min(distance(both, with_lora), distance(both, base), distance(with_lora, base)) > 1e-2
    own.unet.fuse_lora()
    own.unet.unload_lora()
    assert distance(drawn(own, faceid.attach(own, me)), both) < 1e-3


def test_instantid_and_wplus_and_faceid(pipe: Any, instantid: InstantID) -> None:
    others = [tiny_wplus(pipe.unet), tiny_faceid(pipe.unet)]
    me = person([instantid, *others])
    scopes = [lambda a=a: a.attach(pipe, me) for a in (instantid, *others)]
    one = drawn(pipe, *(scope() for scope in scopes))
    assert distance(one, drawn(pipe, *(scope() for scope in reversed(scopes)))) < 1e-4


def test_two_second_streams_are_refused(pipe: Any) -> None:
    infinite = tiny_infinite_id(pipe.unet)
    me, base = person([infinite]), draw(pipe)
    with infinite.attach(pipe, me):
        alone = draw(pipe)
        with pytest.raises(
            SeamError, match=r"a second stream runs .* already.*attach several people together"
        ):
            infinite.attach(pipe, me).__enter__()
        assert torch.equal(draw(pipe), alone)
        with infinite.attach(pipe, me, scale={"identity": 1.0, "mixed": 0.0}):
            assert distance(draw(pipe), alone) > 1e-2
    assert torch.equal(draw(pipe), base)
