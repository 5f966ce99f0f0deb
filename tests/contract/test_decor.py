"""DECOR: what its projection keeps and takes out (arXiv:2412.09169), and how the undesired is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from idpersona.adapters import load_adapter
from idpersona.adapters.decor.projection import decor, undesired_axes
from idpersona.errors import BadInput
from idpersona.seams.text import text_rows, word_rows
from idpersona.testing import tiny_components

SEEDS = range(6)


def rows(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_at_degree_zero(seed: int) -> None:
    text = rows(seed, 2, 9, 24)
    assert decor(text, rows(seed + 50, 3, 24), 0.0) is text


@pytest.mark.parametrize("seed", SEEDS)
def test_degree_one_takes_the_undesired_out_and_a_half_halves_it(seed: int) -> None:
    undesired = rows(seed, 4, 24)
    text = torch.cat([rows(seed + 50, 9, 24), undesired])
    axes = undesired_axes(undesired)
    assert (decor(text, undesired, 1.0) @ axes.T).abs().max() < 1e-5
    assert decor(undesired, undesired, 1.0).abs().max() < 1e-5
    assert torch.allclose(decor(undesired, undesired, 0.5), undesired / 2, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_orthogonal_to_the_undesired_stays(seed: int) -> None:
    undesired = rows(seed, 4, 24)
    axes = undesired_axes(undesired)
    text = rows(seed + 50, 9, 24)
    free = text - text @ axes.T @ axes
    for alpha in (0.3, 1.0):
        assert torch.allclose(decor(free, undesired, alpha), free, atol=1e-5)
    assert torch.allclose(
        decor(decor(text, undesired, 1.0), undesired, 1.0), decor(text, undesired, 1.0), atol=1e-5
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_order_size_and_repeats_of_the_undesired_do_not_matter(seed: int) -> None:
    """Repeated rows give singular values of rounding alone, which must not become axes."""
    undesired, text = rows(seed, 4, 24), rows(seed + 50, 9, 24)
    expected = decor(text, undesired, 0.7)
    same = torch.cat(
        [undesired.flip(0) * torch.tensor([[3.0], [-0.5], [10.0], [1.0]]), undesired, undesired[:1] * 1e-3]
    )
    assert undesired_axes(same).shape[0] == 4
    assert torch.allclose(decor(text, same, 0.7), expected, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_kept_stays(seed: int) -> None:
    undesired, keep = rows(seed, 4, 24), rows(seed + 90, 2, 24)
    undesired[0] += 5 * keep[0]
    assert not torch.allclose(decor(keep, undesired, 1.0), keep, atol=1e-2)
    assert torch.allclose(decor(keep, undesired, 1.0, keep=keep), keep, atol=1e-4)
    assert undesired_axes(keep * 2, keep).shape[0] == 0
    assert torch.equal(decor(keep, keep, 1.0, keep=keep), keep)


def test_the_strongest_axes_alone() -> None:
    undesired = torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.0]))
    text = torch.ones(1, 4)
    assert torch.allclose(decor(text, undesired, 1.0, axes=2), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert torch.allclose(decor(text, undesired, 1.0), torch.tensor([[0.0, 0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    text, undesired = rows(1, 9, 24, dtype=dtype), rows(2, 4, 24, dtype=dtype)
    result = decor(text, undesired, 1.0)
    assert result.dtype == dtype
    assert torch.equal(result, decor(text.float(), undesired.float(), 1.0).to(dtype))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_degrees_out_of_range(alpha: float) -> None:
    with pytest.raises(BadInput, match="degree from 0 to 1"):
        decor(rows(1, 9, 24), rows(2, 4, 24), alpha)
    with pytest.raises(BadInput, match=r"\(4, 20\)"):
        decor(rows(1, 9, 24), rows(2, 4, 20), 0.5)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    parts = tiny_components(request.param)
    if request.param == "sd15":
        parts["requires_safety_checker"] = False
    kind: Any = StableDiffusionPipeline if request.param == "sd15" else StableDiffusionXLPipeline
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def encode(pipe: Any, prompt: str, negative: str = "", **options: Any) -> Any:
    return pipe.encode_prompt(
        prompt=prompt,
        negative_prompt=negative,
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        **options,
    )


def widths(pipe: Any) -> list[slice]:
    first = pipe.text_encoder.config.hidden_size
    second = getattr(pipe, "text_encoder_2", None)
    return [slice(0, first)] + ([slice(first, None)] if second is not None else [])


@pytest.mark.parametrize("seed", [0])
def test_words_of_the_prompt_each_encoder_apart(pipe: Any, seed: int) -> None:
    text = "a man in a red hat"
    plain = encode(pipe, text)
    places = word_rows(pipe.tokenizer, text, "red") + word_rows(pipe.tokenizer, text, "hat")
    with load_adapter("decor").attach(pipe, scale=1.0, words="red, hat"):
        edited = encode(pipe, text)
    for columns in widths(pipe):
        own = plain[0][0, :, columns]
        assert torch.allclose(edited[0][0, :, columns], decor(own, own[places], 1.0), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(edited[1:], plain[1:], strict=True))


def test_a_second_prompt_without_the_users_own_words(pipe: Any) -> None:
    text, second = "a photo of a man", "a photo of a hat"
    plain, other = encode(pipe, text), encode(pipe, second)
    places = word_rows(pipe.tokenizer, second, "hat")
    with load_adapter("decor").attach(pipe, scale=0.5, prompt=second):
        edited = encode(pipe, text)
    for columns in widths(pipe):
        expected = decor(plain[0][0, :, columns], other[0][0, places, columns], 0.5)
        assert torch.allclose(edited[0][0, :, columns], expected, atol=1e-5)
    nothing = load_adapter("decor").attach(pipe, prompt="man a photo")
    with nothing, pytest.raises(BadInput, match="holds nothing that the prompt does not"):
        encode(pipe, text)
    with load_adapter("decor").attach(pipe, scale=0.5, prompt=second):
        unknown = encode(pipe, None, prompt_embeds=plain[0], **_pooled(plain))  # type: ignore[arg-type]
    everything = text_rows(pipe.tokenizer, second)
    first = widths(pipe)[0]
    expected = decor(plain[0][0, :, first], other[0][0, everything, first], 0.5)
    assert torch.allclose(unknown[0][0, :, first], expected, atol=1e-5)


def _pooled(encoded: Any) -> dict[str, Any]:
    if len(encoded) == 2:
        return {}
    return {"pooled_prompt_embeds": encoded[2], "negative_pooled_prompt_embeds": encoded[3]}


def test_padding_negative_and_pooled(pipe: Any) -> None:
    plain = encode(pipe, "a man", "a hat")
    with load_adapter("decor").attach(pipe, scale=1.0, padding=2, both=True):
        edited = encode(pipe, "a man", "a hat")
    for columns in widths(pipe):
        for index in (0, 1):
            taken = plain[index][0, :, columns] - edited[index][0, :, columns]
            assert torch.linalg.matrix_rank(taken, tol=1e-3) == 2
    if len(plain) == 4:
        with load_adapter("decor").attach(pipe, scale=1.0, prompt="a hat", pooled=True):
            pooled = encode(pipe, "man")
        hat = encode(pipe, "a hat")[2]
        assert torch.allclose(pooled[2], decor(encode(pipe, "man")[2], hat, 1.0), atol=1e-5)


def test_words_that_are_kept(pipe: Any) -> None:
    text = "a red man"
    plain = encode(pipe, text)
    places = word_rows(pipe.tokenizer, text, "man")
    with load_adapter("decor").attach(pipe, scale=1.0, words="red", keep="man"):
        edited = encode(pipe, text)
    assert torch.allclose(edited[0][0, places], plain[0][0, places], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "what shall not be drawn"),
        ({"words": "hat", "prompt": "a hat"}, "what shall not be drawn"),
        ({"padding": -1}, "at least 1"),
        ({"padding": 1.5}, "whole number"),
        ({"words": "hat", "axes": 0}, "at least 1"),
        ({"words": "hat", "pooled": True}, "needs prompt"),
        ({"words": 3}, "is a text"),
        ({"words": "hat", "scale": 1.2}, "0 to 1"),
        ({"words": "hat", "scale": {"identity": 1.0}}, "one number"),
        ({"words": "hat", "start": 0.2}, "no start and end"),
        ({"words": "hat", "mask": [[1.0]]}, "no pose and no mask"),
    ],
)
def test_what_is_refused(pipe: Any, options: dict[str, Any], told: str) -> None:
    before = dict(pipe.__dict__)
    with pytest.raises(BadInput, match=told), load_adapter("decor").attach(pipe, **options):
        pytest.fail("the scope was entered")
    assert pipe.__dict__ == before


def test_words_that_the_prompt_does_not_hold(pipe: Any) -> None:
    with (
        load_adapter("decor").attach(pipe, words="dog"),
        pytest.raises(BadInput, match="does not hold 'dog'"),
    ):
        encode(pipe, "a man")
    scope = load_adapter("decor").attach(pipe, words="man", keep="dog")
    with scope, pytest.raises(BadInput, match="'dog', which is to be kept"):
        encode(pipe, "a man")


def test_it_keeps_nobody(pipe: Any) -> None:
    with pytest.raises(BadInput, match="keeps no identity"):
        load_adapter("decor").read("sample:astronaut")
    scope: Any = load_adapter("decor").attach(pipe, object(), words="hat")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="keeps no identity"), scope:
        pytest.fail("the scope was entered")
