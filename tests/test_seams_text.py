"""The seam ``text``: edits in order, no trace, and where words are in a prompt."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from idpersona.errors import BadInput, SeamError
from idpersona.seams.text import TextContext, TextEmbeds, padding_rows, text_rows, text_scope, word_rows
from idpersona.testing import tiny_components
from idpersona.testing.tokenizer import tiny_tokenizer


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    parts = tiny_components(request.param)
    if request.param == "sd15":
        parts["requires_safety_checker"] = False
    kind: Any = StableDiffusionPipeline if request.param == "sd15" else StableDiffusionXLPipeline
    return kind(**parts)


class Add:
    """Adds a number, and keeps what it was asked with."""

    def __init__(self, number: float, name: str = "add"):
        self.number, self.name = number, name
        self.contexts: list[TextContext] = []

    def edit(self, embeds: TextEmbeds, context: TextContext) -> TextEmbeds:
        self.contexts.append(context)
        return replace(embeds, prompt=embeds.prompt * 2 + self.number)


def encode(pipe: Any, prompt: Any, **options: Any) -> Any:
    call = {"device": torch.device("cpu"), "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    return pipe.encode_prompt(prompt=prompt, **call | options)


def test_edits_are_made_in_the_order_of_attaching_and_leave_no_trace(pipe: Any) -> None:
    plain = encode(pipe, "a man")
    before = dict(pipe.__dict__)
    first, second = text_scope(pipe, [Add(1.0)]), text_scope(pipe, [Add(10.0)])
    first.__enter__()
    second.__enter__()
    both = encode(pipe, "a man")
    first.__exit__(None, None, None)
    only_second = encode(pipe, "a man")
    second.__exit__(None, None, None)
    assert torch.allclose(both[0], (plain[0] * 2 + 1) * 2 + 10)
    assert torch.allclose(only_second[0], plain[0] * 2 + 10)
    assert all(torch.equal(a, b) for a, b in zip(both[1:], plain[1:], strict=True))
    assert pipe.__dict__ == before
    assert all(torch.equal(a, b) for a, b in zip(encode(pipe, "a man"), plain, strict=True))


def test_an_exception_leaves_no_trace(pipe: Any) -> None:
    before = dict(pipe.__dict__)
    with pytest.raises(KeyboardInterrupt), text_scope(pipe, [Add(1.0)]):
        raise KeyboardInterrupt
    assert pipe.__dict__ == before


def test_an_edit_is_logged(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "idpersona.seams.text"), text_scope(pipe, [Add(1.0, "mine")]):
        encode(pipe, "a man")
    assert "mine moved the text by" in caplog.text


def test_what_an_edit_is_told(pipe: Any) -> None:
    edit = Add(0.0)
    with text_scope(pipe, [edit]):
        plain = encode(pipe, ["a man", "a hat"], num_images_per_prompt=2)
        encode(pipe, None, prompt_embeds=plain[0], negative_prompt_embeds=plain[1], **_pooled(plain))
    context, given = edit.contexts
    columns = [encoder.columns for encoder in context.encoders]
    assert columns[-1].stop == plain[0].shape[-1]
    assert [encoder.prompt_of(row, 4) for encoder in context.encoders for row in range(4)] == [
        "a man",
        "a man",
        "a hat",
        "a hat",
    ] * len(columns)
    assert torch.equal(context.encode("a hat").prompt[0], encode(pipe, "a hat")[0][0])
    with pytest.raises(BadInput, match="neither weighted nor embedded"):
        given.encoders[0].prompt_of(0, 1)


def _pooled(encoded: Any) -> dict[str, Any]:
    if len(encoded) == 2:
        return {}
    return {"pooled_prompt_embeds": encoded[2], "negative_pooled_prompt_embeds": encoded[3]}


def test_the_second_encoder_has_a_prompt_of_its_own(pipe: Any) -> None:
    if not hasattr(pipe, "text_encoder_2"):
        pytest.skip("the base has one text encoder")
    edit = Add(0.0)
    with text_scope(pipe, [edit]):
        encode(pipe, "a man", prompt_2="a hat")
    assert [encoder.prompt_of(0, 1) for encoder in edit.contexts[0].encoders] == ["a man", "a hat"]


def test_an_edit_that_changes_shape_or_type_is_refused(pipe: Any) -> None:
    class Cut(Add):
        def edit(self, embeds: TextEmbeds, context: TextContext) -> TextEmbeds:
            return replace(embeds, prompt=embeds.prompt[:, 1:])

    class Half(Add):
        def edit(self, embeds: TextEmbeds, context: TextContext) -> TextEmbeds:
            return replace(embeds, prompt=embeds.prompt.half())

    for edit in (Cut(0.0, "cut"), Half(0.0, "cut")):
        with text_scope(pipe, [edit]), pytest.raises(SeamError, match="cut turned text"):
            encode(pipe, "a man")


def test_an_encode_prompt_set_meanwhile_stays(pipe: Any) -> None:
    def mine(**_: Any) -> Any:
        return None

    try:
        with pytest.raises(SeamError, match="encode_prompt"), text_scope(pipe, [Add(1.0)]):
            pipe.encode_prompt = mine
        assert pipe.encode_prompt is mine
    finally:
        del pipe.encode_prompt


def test_a_pipeline_without_text_is_refused() -> None:
    class Silent:
        pass

    with pytest.raises(SeamError, match="Silent has no encode_prompt"), text_scope(Silent(), [Add(1.0)]):
        pytest.fail("the scope was entered")


def test_words_in_a_prompt() -> None:
    tokenizer = tiny_tokenizer()  # one token for each letter
    text = "a red hat, a hatter and a Hat"
    # The first place is the start token; spaces are part of no token.
    letters = [letter for letter in text if letter != " "]
    hats = [n for n in range(len(letters)) if "".join(letters[n : n + 3]).lower() == "hat"]
    first, inside, last = hats
    assert word_rows(tokenizer, text, "hat") == [
        *range(first + 1, first + 4),
        *range(last + 1, last + 4),
    ]
    assert inside + 1 not in word_rows(tokenizer, text, "hat")
    assert word_rows(tokenizer, text, "red hat") == list(range(2, 8))
    assert word_rows(tokenizer, text, "dog") == []
    assert text_rows(tokenizer, text) == list(range(1, len(letters) + 1))
    assert padding_rows(tokenizer, text) == list(range(len(letters) + 2, tokenizer.model_max_length))


def test_words_beyond_the_tokenizers_length_are_not_found() -> None:
    tokenizer = tiny_tokenizer(max_length=10)
    assert word_rows(tokenizer, "abcdefghij hat", "hat") == []
    assert padding_rows(tokenizer, "abcdefghij hat") == []


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(BadInput, match="Slow does not say"):
        word_rows(Slow(), "a hat", "hat")
