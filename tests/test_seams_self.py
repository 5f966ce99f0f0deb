"""The seam ``self``: mixed attention, its sources, its statistics, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from idpersona.errors import BadInput, SeamError
from idpersona.seams.mask import as_mask
from idpersona.seams.scope import attach_scope
from idpersona.seams.self_attention import BatchSource, MixedBranch, adain_mean, self_layers
from idpersona.seams.stream import SecondStream
from idpersona.testing import tiny_components

ATOL = 1e-4


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    parts = tiny_components(request.param)
    if request.param == "sd15":
        parts["requires_safety_checker"] = False
    kind: Any = StableDiffusionPipeline if request.param == "sd15" else StableDiffusionXLPipeline
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe: Any, *prompts: str, seeds: tuple[int, ...] = (), **changes: Any) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or [7] * len(prompts)]
    call = {"num_inference_steps": 3, "guidance_scale": 5.0, "height": 64, "width": 64} | changes
    return pipe(list(prompts), generator=generators, output_type="latent", **call).images


def layers(pipe: Any) -> list[str]:
    return list(self_layers(pipe.unet))


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_a_picture_reads_another_one_of_the_batch(pipe: Any, guidance: float) -> None:
    plain = draw(pipe, "a man", "a hat", seeds=(7, 8), guidance_scale=guidance)
    with attach_scope(pipe, self_attention=[MixedBranch(BatchSource({1: 0}), layers(pipe))]):
        mixed = draw(pipe, "a man", "a hat", seeds=(7, 8), guidance_scale=guidance)
        turned = draw(pipe, "a hat", "a man", seeds=(8, 7), guidance_scale=guidance)
    assert torch.allclose(mixed[0], plain[0], atol=ATOL)
    assert not torch.allclose(mixed[1], plain[1], atol=1e-2)
    assert torch.allclose(turned[0], plain[1], atol=ATOL)
    assert torch.equal(draw(pipe, "a man", "a hat", seeds=(7, 8), guidance_scale=guidance), plain)


@pytest.mark.parametrize("style_merge", [False, True])
def test_reading_oneself_changes_nothing(pipe: Any, style_merge: bool) -> None:
    """Every key twice gives the attention of every key once; its mean is its own."""
    plain = draw(pipe, "a man")
    for strength in (1.0, 0.3):
        branch = MixedBranch(BatchSource({0: 0}), layers(pipe), strength=strength, style_merge=style_merge)
        with attach_scope(pipe, self_attention=[branch]):
            assert torch.allclose(draw(pipe, "a man"), plain, atol=ATOL)


def stream_of(pipe: Any, **options: Any) -> tuple[SecondStream, MixedBranch]:
    window = {name: options[name] for name in ("start", "end") if name in options}
    stream = SecondStream(pipe, end=window.get("end", 1.0))
    return stream, MixedBranch(stream, layers(pipe), **options)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_a_second_stream_is_the_picture_without_an_adapter(pipe: Any, guidance: float) -> None:
    """At the end its latents are the base's, whatever is done to the stream that reads it."""
    plain = draw(pipe, "a man", guidance_scale=guidance)
    stream, branch = stream_of(pipe)
    other = MixedBranch(BatchSource({0: 0}), layers(pipe)[:1], style_merge=True)
    with attach_scope(pipe, self_attention=[branch, other], streams=[stream]):
        draw(pipe, "a man", guidance_scale=guidance)
        assert stream.latents is not None
        assert torch.allclose(stream.latents, plain, atol=ATOL)
        assert torch.allclose(draw(pipe, "a man", guidance_scale=guidance), plain, atol=ATOL)


def test_a_second_stream_equals_a_second_picture_of_the_batch(pipe: Any) -> None:
    """A branch disturbs the picture that the pipeline draws; the stream must not see it."""

    class Shift:
        layers = layers(pipe)[:2]

        def prepare(self, call: Any) -> None:
            self.quiet = call.quiet

        def at(self, layer: str, call: Any) -> Any:
            def mixer(_attn: Any, query: Any, key: Any, value: Any, mask: Any, attend: Any) -> Any:
                result = attend(query, key, value, mask)
                if call.quiet:
                    return result
                rows = torch.arange(len(result)) % call.rows
                moved = (rows % 2 == 1) if call.rows > 2 else torch.ones(len(result), dtype=torch.bool)
                return result + 0.3 * moved[:, None, None]

            return mixer

        def release(self) -> None:
            pass

    stream, branch = stream_of(pipe)
    with attach_scope(pipe, self_attention=[branch, Shift()], streams=[stream]):
        streamed = draw(pipe, "a man")
    with attach_scope(pipe, self_attention=[MixedBranch(BatchSource({1: 0}), layers(pipe)), Shift()]):
        batched = draw(pipe, "a man", "a man")
    assert torch.allclose(streamed[0], batched[1], atol=ATOL)
    assert not torch.allclose(streamed[0], draw(pipe, "a man")[0], atol=1e-2)


def test_a_stream_ends_with_its_window(pipe: Any) -> None:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = pipe.unet.register_forward_hook(count)
    try:
        for end, extra in ((1.0, 4), (0.5, 2)):
            stream, branch = stream_of(pipe, end=end)
            passes = 0
            with attach_scope(pipe, self_attention=[branch], streams=[stream]):
                draw(pipe, "a man", num_inference_steps=4)
            assert passes == 4 + extra
    finally:
        handle.remove()


def test_outside_the_mask_nothing_is_mixed(pipe: Any) -> None:
    plain = draw(pipe, "a man", "a hat", seeds=(7, 8))
    source = BatchSource({1: 0})
    results = {}
    for name, mask in (("none", None), ("full", torch.ones(64, 64)), ("empty", torch.zeros(64, 64))):
        masks = None if mask is None else as_mask(mask)
        with attach_scope(pipe, self_attention=[MixedBranch(source, layers(pipe), mask=masks)]):
            results[name] = draw(pipe, "a man", "a hat", seeds=(7, 8))
    assert torch.equal(results["full"], results["none"])
    assert torch.equal(results["empty"], plain)
    assert not torch.allclose(results["none"], plain, atol=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_adain_mean(seed: int) -> None:
    """The mean over positions is the reference's, what is left of each position stays (arXiv:2403.11781)."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 12, 8, generator=generator, dtype=torch.float64) * 3
    reference = torch.randn(2, 20, 8, generator=generator, dtype=torch.float64) + 5
    merged = adain_mean(values, reference)
    assert torch.allclose(merged.mean(1), reference.mean(1), atol=1e-12)
    assert torch.allclose(merged - merged.mean(1, keepdim=True), values - values.mean(1, keepdim=True))
    assert torch.allclose(merged.std(1), values.std(1))
    assert torch.allclose(adain_mean(values, values), values)


def test_a_processor_that_is_not_stock_is_refused_by_name(pipe: Any) -> None:
    class Other:
        def __call__(self, attn: Any, hidden_states: Any, **_: Any) -> Any:
            return hidden_states

    name = layers(pipe)[1]
    layer = pipe.unet.get_submodule(name)
    stock = layer.processor
    layer.processor = Other()
    state = dict(pipe.unet.attn_processors)
    try:
        branch = MixedBranch(BatchSource({0: 0}), layers(pipe))
        with pytest.raises(SeamError, match=f"Other in {name}"), attach_scope(pipe, self_attention=[branch]):
            pytest.fail("the scope was entered")
        assert pipe.unet.attn_processors == state
    finally:
        layer.processor = stock


def test_senseless_arguments(pipe: Any) -> None:
    for strength in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(BadInput, match="strength"):
            MixedBranch(BatchSource({0: 0}), layers(pipe), strength=strength)
    for pairs in ({}, {-1: 0}, {0: 1.5}):
        with pytest.raises(BadInput, match="pairs"):
            BatchSource(pairs)  # type: ignore[arg-type]
    too_many = attach_scope(pipe, self_attention=[MixedBranch(BatchSource({2: 0}), layers(pipe))])
    with pytest.raises(SeamError, match="batch of 2 pictures"), too_many:
        draw(pipe, "a man", "a hat")
    nowhere = attach_scope(pipe, self_attention=[MixedBranch(BatchSource({0: 0}), ["nowhere"])])
    with pytest.raises(SeamError, match="nowhere"), nowhere:
        pytest.fail("the scope was entered")


def test_a_pipeline_that_does_not_tell_its_guidance_has_no_second_stream(pipe: Any) -> None:
    class Mute:
        unet, scheduler, vae = pipe.unet, pipe.scheduler, pipe.vae
        do_classifier_free_guidance = False

    stream = SecondStream(Mute())
    scope = attach_scope(Mute(), self_attention=[MixedBranch(stream, layers(pipe))], streams=[stream])
    with pytest.raises(SeamError, match="guidance_scale"), scope:
        pytest.fail("the scope was entered")
    assert not pipe.unet._forward_pre_hooks
