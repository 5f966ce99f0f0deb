"""Infinite-ID: how its two attentions merge, its options, and what it refuses."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from idpersona.adapters.infinite_id.adapter import CHEAP_END
from idpersona.errors import BadInput, SeamError
from idpersona.identity import Feature, Identity
from idpersona.seams.self_attention import self_layers
from idpersona.testing import tiny_components
from idpersona.testing.infinite_id import FACE_DIM, IMAGE_DIM, IMAGE_TOKENS, tiny_infinite_id

ATOL = 1e-4


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = StableDiffusionXLPipeline(**tiny_components("sdxl"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def adapter(pipe: Any) -> Any:
    return tiny_infinite_id(pipe.unet)


def person(seed: int, photos: int = 1) -> Identity:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((photos * IMAGE_TOKENS, IMAGE_DIM)).astype(np.float32)
    face = rng.standard_normal((photos, FACE_DIM)).astype(np.float32)
    return Identity(
        "face",
        {
            "clip-h": Feature("clip-h", image, tokens=IMAGE_TOKENS),
            "antelopev2": Feature("antelopev2", face),
        },
    )


def draw(pipe: Any, **changes: Any) -> torch.Tensor:
    call = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent"} | changes
    return pipe("a man", generator=torch.Generator().manual_seed(3), **call).images


def layer_results(pipe: Any, adapter: Any, **options: Any) -> dict[str, torch.Tensor]:
    """What goes into the output projection of the first cross-attention layer in the first pass."""
    name = adapter.cross_attention.layers[0]
    seen: list[torch.Tensor] = []

    def keep(_module: Any, args: Any) -> None:
        seen.append(args[0].clone())

    layer = pipe.unet.get_submodule(name)
    handle = layer.to_out[0].register_forward_pre_hook(keep)
    try:
        with adapter.attach(pipe, person(1), **options):
            draw(pipe, num_inference_steps=1)
    finally:
        handle.remove()
    return {"first": seen[0]}


def test_the_two_cross_attentions_are_summed_with_weights(pipe: Any, adapter: Any) -> None:
    """scale Attn(Q, K_id, V_id) + text Attn(Q, K_t, V_t), measured without mixed attention."""

    def merged(identity: float, text: float, style_merge: bool = False) -> torch.Tensor:
        scale = {"identity": identity, "mixed": 0.0}
        options = {"scale": scale, "text": text, "style_merge": style_merge}
        return layer_results(pipe, adapter, **options)["first"]

    text = merged(1e-9, 1.0)
    identity = merged(1.0, 0.0)
    assert not torch.allclose(text, identity, atol=1e-2)
    assert torch.allclose(merged(1.0, 1.0), text + identity, atol=ATOL)
    assert torch.allclose(merged(0.6, 0.3), 0.3 * text + 0.6 * identity, atol=ATOL)
    shifted = identity - identity.mean(1, keepdim=True) + text.mean(1, keepdim=True)
    assert torch.allclose(merged(1.0, 1.0, style_merge=True), text + shifted, atol=ATOL)


def test_without_an_identity_mixed_attention_changes_nothing(pipe: Any, adapter: Any) -> None:
    """The second stream is then the picture itself (arXiv:2403.11781 with lambda_id = 0)."""
    before = draw(pipe)
    for style_merge in (False, True):
        options = {"scale": {"identity": 0.0, "mixed": 1.0}, "style_merge": style_merge}
        with adapter.attach(pipe, person(1), **options):
            assert torch.allclose(draw(pipe), before, atol=ATOL)


def test_every_option_matters(pipe: Any, adapter: Any) -> None:
    outputs = [draw(pipe)]
    for options in (
        {},
        {"scale": {"mixed": 0.0}},
        {"scale": {"mixed": 0.3}},
        {"style_merge": True},
        {"text": 0.5},
        {"mixed_layers": "up_blocks"},
        {"mixed_end": 0.5},
        {"mixed_start": 0.5},
        {"cheap": True},
    ):
        with adapter.attach(pipe, person(1), **options):
            outputs.append(draw(pipe))
    for number, one in enumerate(outputs):
        assert all(not torch.allclose(one, other, atol=1e-4) for other in outputs[number + 1 :])


def test_the_cheap_preset(pipe: Any, adapter: Any) -> None:
    """Mixed in the up blocks only, and no second pass after its share of the steps."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = pipe.unet.register_forward_hook(count)
    try:
        with adapter.attach(pipe, person(1), cheap=True):
            hosts = [
                name
                for name in self_layers(pipe.unet)
                if type(pipe.unet.get_submodule(name).processor).__module__.startswith("idpersona")
            ]
            draw(pipe, num_inference_steps=10)
    finally:
        handle.remove()
    assert passes == 10 + round(10 * CHEAP_END)
    assert hosts and all(name.startswith("up_blocks") for name in hosts)


def test_photos_kept_apart_are_more_tokens(pipe: Any, adapter: Any) -> None:
    """Stacked photos (the paper's way to several references); guidance needs as many unconditional tokens."""
    one, several = person(1), Identity.merge([person(1), person(2)], how="concat")
    assert adapter.tokens(one).shape[1] == IMAGE_TOKENS + 4
    assert adapter.tokens(several).shape[1] == 2 * IMAGE_TOKENS + 4
    with adapter.attach(pipe, several):
        together = draw(pipe)
    with adapter.attach(pipe, one):
        assert not torch.allclose(draw(pipe), together, atol=1e-3)
    with (
        pytest.raises(BadInput, match="same number of photos"),
        adapter.attach(pipe, [one, several]),
    ):
        pytest.fail("the scope was entered")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pose": "photo.png"}, "holds no pose"),
        ({"mixed_layers": "nowhere"}, "mixed_layers 'nowhere' matches no"),
        ({"mixed_start": 0.8, "mixed_end": 0.2}, "mixed_start and mixed_end"),
        ({"mixed_start": 0.7, "cheap": True}, "mixed_start and mixed_end"),
        ({"text": -1.0}, "text"),
        ({"scale": {"mixed": -1.0}}, "scale mixed"),
        ({"cheap": 1}, "true or false"),
    ],
)
def test_what_is_refused(pipe: Any, adapter: Any, options: dict[str, Any], told: str) -> None:
    state = dict(pipe.unet.attn_processors)
    with pytest.raises(BadInput, match=told), adapter.attach(pipe, person(1), **options):
        pytest.fail("the scope was entered")
    assert pipe.unet.attn_processors == state and not pipe.unet._forward_pre_hooks


def test_features_of_another_size_are_refused(pipe: Any, adapter: Any) -> None:
    good = person(1)
    face = good.features["antelopev2"]
    cut = Feature("clip-h", good.features["clip-h"].values[:-1])
    thing = Identity("object", dict(good.features))
    for wrong, told in (
        (Identity("face", {"clip-h": cut, "antelopev2": face}), f"takes {IMAGE_TOKENS}"),
        (Identity("face", {"antelopev2": face}), "needs .*'clip-h'"),
        (thing, "keeps faces"),
    ):
        with pytest.raises(Exception, match=told), adapter.attach(pipe, wrong):
            pytest.fail("the scope was entered")


def test_as_a_pipeline(pipe: Any, adapter: Any) -> None:
    with adapter.attach(pipe, person(1), scale=0.8):
        expected = draw(pipe)
    call = adapter.pipeline(pipe, person(1), scale=0.8)
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent"}
    drawn = call("a man", generator=torch.Generator().manual_seed(3), **options).images
    assert torch.equal(drawn, expected)
    assert not pipe.unet._forward_pre_hooks


def test_no_second_stream_beside_an_inpainting_that_blends(adapter: Any, pipe: Any) -> None:
    from diffusers import AutoPipelineForInpainting

    blending = AutoPipelineForInpainting.from_pipe(pipe)
    with pytest.raises(SeamError, match=r"puts the known picture back.*'mixed': 0"):
        adapter.attach(blending, person(1)).__enter__()
    with adapter.attach(blending, person(1), scale={"mixed": 0.0}):
        pass


def test_a_pass_leaves_the_lists_that_it_is_given(adapter: Any, pipe: Any) -> None:
    """diffusers' models empty the list of a T2I-Adapter's residuals; the stream's pass comes first."""
    left: list[int] = []
    forward = pipe.unet.forward

    @functools.wraps(forward)
    def empties(*args: Any, down_intrablock_additional_residuals: Any = None, **kwargs: Any) -> Any:
        if down_intrablock_additional_residuals is not None:
            left.append(len(down_intrablock_additional_residuals))
            down_intrablock_additional_residuals.clear()
        return forward(*args, **kwargs)

    def give(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs.setdefault("down_intrablock_additional_residuals", [torch.zeros(1)])
        return args, kwargs

    handle = pipe.unet.register_forward_pre_hook(give, with_kwargs=True)
    pipe.unet.forward = empties
    try:
        with adapter.attach(pipe, person(1)):
            handle.remove()
            handle = pipe.unet.register_forward_pre_hook(give, with_kwargs=True, prepend=True)
            draw(pipe)
    finally:
        handle.remove()
        del pipe.unet.forward
    assert left and set(left) == {1}
