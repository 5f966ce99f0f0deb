"""Long and weighted prompts: plain ones stay as they were, weights and length reach the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from idpersona.adapters import load_adapter
from idpersona.errors import BadInput
from idpersona.pipelines import load_base, weighted_prompts
from idpersona.testing import tiny_components, tiny_inputs

CLASSES: dict[str, Any] = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
PROMPT = "a photo of a smiling man"
LONG = "a photo of a man. " + "he is young and smiling and wears eyeglasses. " * 12 + "the hair is blond."


@pytest.fixture(scope="module", params=["mini", "sd15", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    if request.param == "mini":
        pipe: Any = load_base("mini")
    else:
        pipe = CLASSES[request.param](**tiny_components(request.param))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: Any = PROMPT, **given: Any) -> np.ndarray:
    inputs = tiny_inputs("sd15") | {"num_inference_steps": 1, "height": 64, "width": 64}
    return pipe(**inputs | {"prompt": prompt, **given})[0]


def texts(pipe: Any, prompt: Any, **given: Any) -> tuple[Any, ...]:
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    return pipe.encode_prompt(prompt=prompt, **options | given)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("negative", [None, "a drawing"])
def test_plain_prompts_stay_as_they_were(pipe: Any, negative: str | None) -> None:
    plain = texts(pipe, PROMPT, negative_prompt=negative)
    picture = draw(pipe, negative_prompt=negative)
    with weighted_prompts(pipe):
        same = texts(pipe, PROMPT, negative_prompt=negative)
        again = draw(pipe, negative_prompt=negative)
    assert len(plain) == len(same)
    assert all(differ(one, other) < 1e-5 for one, other in zip(plain, same, strict=True))
    assert float(np.abs(picture - again).max()) < 1e-4
    assert "encode_prompt" not in vars(pipe)


def test_weights_move_the_text_their_way(pipe: Any) -> None:
    plain = texts(pipe, PROMPT)[0]
    with weighted_prompts(pipe):
        without = texts(pipe, "a photo of a (smiling)0 man")[0]
        half = texts(pipe, "a photo of a (smiling)0.5 man")[0]
        more = texts(pipe, "a photo of a (smiling)1.5 man")[0]
    assert 0 < differ(half, plain) < differ(without, plain)
    assert differ(more, plain) > 1e-3


def test_long_prompts_arrive_whole(pipe: Any) -> None:
    limit = pipe.tokenizer.model_max_length
    with weighted_prompts(pipe):
        found = texts(pipe, [LONG, PROMPT], negative_prompt="a drawing")
        other = texts(pipe, [LONG.replace("blond", "black"), PROMPT], negative_prompt="a drawing")
        assert draw(pipe, LONG, num_images_per_prompt=2).shape[0] == 2
    assert found[0].shape[:1] == found[1].shape[:1] == (2,)
    assert found[0].shape[1] == found[1].shape[1] > limit
    assert found[0].shape[1] % limit == 0
    assert differ(found[0][0], other[0][0]) > 1e-3  # the last words count
    assert differ(found[0][1], other[0][1]) == 0


def test_beside_adapters() -> None:
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    adapter, decor = load_adapter("instantid", base=pipe), load_adapter("decor", base=pipe)
    me = adapter.read("sample:astronaut")
    base = draw(pipe)
    with weighted_prompts(pipe), adapter.attach(pipe, me):
        smiling = draw(pipe, "a photo of a (smiling)1.4 man")
        assert float(np.abs(smiling - draw(pipe)).max()) > 1e-3
        with decor.attach(pipe, prompt="eyeglasses"):
            assert float(np.abs(smiling - draw(pipe, "a photo of a (smiling)1.4 man")).max()) > 1e-4
        with (
            decor.attach(pipe, words="smiling"),
            pytest.raises(BadInput, match="neither weighted nor embedded"),
        ):
            draw(pipe)
    with adapter.attach(pipe, me), weighted_prompts(pipe):
        assert np.array_equal(smiling, draw(pipe, "a photo of a (smiling)1.4 man"))
    assert np.array_equal(draw(pipe), base)


def test_bad_input(pipe: Any) -> None:
    with weighted_prompts(pipe):
        with pytest.raises(BadInput, match="clip_skip"):
            draw(pipe, clip_skip=1)
        with pytest.raises(BadInput, match="cannot be read as weighted text"):
            draw(pipe, '("a man", "a woman").blend(1)')
