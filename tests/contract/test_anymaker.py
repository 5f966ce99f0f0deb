"""AnyMaker: the token in the category word's place, the details in the up blocks, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from idpersona.adapters.anymaker.modules import AnyMakerMapper
from idpersona.errors import BadInput
from idpersona.identity import Feature, Identity
from idpersona.seams.text import word_rows
from idpersona.testing import tiny_components
from idpersona.testing.anymaker import DIMS, TOKENS, tiny_anymaker


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def adapter(pipe: Any) -> Any:
    return tiny_anymaker(pipe.unet)


def thing(seed: int, kind: str = "object") -> Identity:
    rng = np.random.default_rng(seed)
    sizes = zip(("dinov2", "mae"), TOKENS, DIMS, strict=True)
    features = {
        name: Feature(name, rng.standard_normal((tokens, dim)).astype(np.float32), tokens=tokens)
        for name, tokens, dim in sizes
    }
    return Identity(kind, features)


def encode(pipe: Any, *prompts: str, pictures: int = 1) -> torch.Tensor:
    return pipe.encode_prompt(
        prompt=list(prompts),
        device=torch.device("cpu"),
        num_images_per_prompt=pictures,
        do_classifier_free_guidance=True,
    )[0]


def draw(pipe: Any, prompt: str = "a photo of a man", **changes: Any) -> torch.Tensor:
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"} | changes
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **call).images


def test_the_global_token_takes_the_words_place_and_nothing_else(pipe: Any, adapter: Any) -> None:
    text = "a photo of a man in a boat"
    places = word_rows(pipe.tokenizer, text, "man")
    plain = encode(pipe, text)
    seen = [tokens[:, 0] for tokens in adapter.seen(thing(1))]
    with adapter.attach(pipe, thing(1)):
        edited = encode(pipe, text)
    others = [n for n in range(plain.shape[1]) if n not in places]
    assert torch.equal(edited[:, others], plain[:, others])
    word = plain[0, places].mean(0, keepdim=True)
    with torch.no_grad():
        change = adapter.mapper.global_token(seen, word) - word
    assert torch.allclose(edited[0, places], plain[0, places] + change, atol=1e-5)
    with adapter.attach(pipe, thing(1), scale={"global": 0.25}):
        quarter = encode(pipe, text)
    assert torch.allclose(quarter[0, places], plain[0, places] + 0.25 * change, atol=1e-5)


def test_each_prompt_has_its_own_object(pipe: Any, adapter: Any) -> None:
    prompts = ("a man", "a drawing")
    with adapter.attach(pipe, [thing(1), thing(2)]):
        both = encode(pipe, *prompts, pictures=2)
    for row, (prompt, seed) in enumerate(zip(prompts, (1, 2), strict=True)):
        with adapter.attach(pipe, thing(seed)):
            assert torch.allclose(encode(pipe, prompt)[0], both[2 * row], atol=1e-6)
        assert torch.equal(both[2 * row], both[2 * row + 1])


def test_the_word_can_be_named(pipe: Any, adapter: Any) -> None:
    text = "a man with a boat"
    with adapter.attach(pipe, thing(1), word="boat"):
        edited = encode(pipe, text)
    moved = (edited - encode(pipe, text)).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == word_rows(pipe.tokenizer, text, "boat")
    for options, prompt in (({}, "a boat"), ({"word": "dog"}, "a man")):
        with (
            adapter.attach(pipe, thing(1), **options),
            pytest.raises(BadInput, match="does not name the object"),
        ):
            encode(pipe, prompt)


def test_only_the_up_blocks_are_touched(pipe: Any, adapter: Any) -> None:
    with adapter.attach(pipe, thing(1)):
        hosts = [
            name
            for name, processor in pipe.unet.attn_processors.items()
            if type(processor).__module__.startswith("idpersona")
        ]
    assert hosts and all(name.startswith("up_blocks.") for name in hosts)


def test_with_a_mask_or_a_window_the_text_stays(pipe: Any, adapter: Any) -> None:
    plain = encode(pipe, "a man")
    for options in ({"mask": np.ones((16, 16), np.float32)}, {"start": 0.2}, {"end": 0.9}):
        with adapter.attach(pipe, thing(1), **options):
            assert torch.equal(encode(pipe, "a man"), plain)
    with adapter.attach(pipe, thing(1), scale={"global": 0.0}):
        local = draw(pipe)
    with adapter.attach(pipe, thing(1), mask=np.ones((16, 16), np.float32)):
        assert torch.equal(draw(pipe), local)


def test_unconditional_rows_see_nothing_of_the_object(pipe: Any, adapter: Any) -> None:
    """Their keys and values are those of zeros, as many of each encoder as beside them."""
    outputs: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        outputs.append(output[0])

    handle = pipe.unet.register_forward_hook(keep)
    nothing = Identity(
        "object",
        {
            name: Feature(name, np.zeros_like(f.values), tokens=f.tokens)
            for name, f in thing(1).features.items()
        },
    )
    try:
        with adapter.attach(pipe, thing(1), scale={"global": 0.0}):
            draw(pipe, "", num_inference_steps=1, guidance_scale=5.0)
        with adapter.attach(pipe, nothing, scale={"global": 0.0}):
            draw(pipe, "", num_inference_steps=1, guidance_scale=1.0)
    finally:
        handle.remove()
    assert torch.allclose(outputs[0].chunk(2)[0], outputs[1], atol=1e-5)


def test_an_untrained_mapper_leaves_the_word_and_the_tokens() -> None:
    mapper = AnyMakerMapper(DIMS, 32, 16, depth=2)
    word = torch.randn(2, 16)
    seen = [torch.randn(2, 3, dim) for dim in DIMS]
    assert torch.equal(mapper.global_token(seen, word), word)
    assert all(torch.equal(*pair) for pair in zip(mapper.mixed(seen), seen, strict=True))


def test_photos_of_an_object_are_each_mixed_alone(adapter: Any) -> None:
    one, two = thing(1), thing(2)
    both = {
        name: Feature(name, np.concatenate([f.values, two.features[name].values]), tokens=f.tokens)
        for name, f in one.features.items()
    }
    together = adapter.seen(Identity("object", both))
    raw = [torch.tensor(f.values)[None, None] for f in one.features.values()]
    for first, second, pair, before in zip(adapter.seen(one), adapter.seen(two), together, raw, strict=True):
        assert pair.shape == (1, 2, *first.shape[2:])
        assert torch.allclose(pair, torch.cat([first, second], dim=1), atol=1e-5)
        assert not torch.allclose(first, before, atol=1e-2)  # the blocks do something


def test_a_face_without_a_mask_is_refused(pipe: Any, adapter: Any) -> None:
    state = dict(pipe.unet.attn_processors)
    scope = adapter.attach(pipe, thing(1, kind="face"))
    with pytest.raises(BadInput, match="with a mask"), scope:
        pytest.fail("the scope was entered")
    with pytest.raises(BadInput, match="needs an identity"), adapter.attach(pipe):
        pytest.fail("the scope was entered")
    assert pipe.unet.attn_processors == state
