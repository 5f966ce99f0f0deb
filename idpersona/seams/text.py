"""The seam ``text``: edits of the encoded prompt, after encoding and before the first step.

``pipe.encode_prompt`` is wrapped for the length of a scope. Edits are made in the order in which they were
attached, and each says in the log (``idpersona.seams.text``, INFO) how far it moved the embeddings.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor

from idpersona.errors import BadInput, SeamError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextEmbeds:
    """What ``encode_prompt`` returns; B is prompts times pictures per prompt, those of one prompt together.

    Attributes:
        prompt: [B, tokens, dim].
        negative: the same for the negative prompt, or None without guidance.
        pooled, negative_pooled: [B, dim], of pipelines with pooled text (SDXL); else None.
    """

    prompt: Tensor
    negative: Tensor | None = None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None


@dataclass(frozen=True)
class Encoder:
    """One text encoder of a pipeline.

    Attributes:
        tokenizer: its own.
        columns: of the embeddings, which are its own.
        prompts: what it was given, one per group of rows; None where the places of its words are not known:
            embeddings were given, or the text is weighted.
    """

    tokenizer: Any
    columns: slice
    prompts: tuple[str, ...] | None

    def prompt_of(self, row: int, rows: int) -> str:
        """The prompt of one of ``rows`` rows. Raises BadInput where there is none to look words up in."""
        if self.prompts is None:
            raise BadInput(
                "words are looked up in the prompt: give plain text, neither weighted nor embedded"
            )
        return self.prompts[row * len(self.prompts) // rows]


@dataclass(frozen=True)
class TextContext:
    """What an edit may ask.

    Attributes:
        encoders: in the order of their columns.
        encode: a text to its own, unedited embeddings of one row.
    """

    encoders: tuple[Encoder, ...]
    encode: Callable[[str], TextEmbeds]


class TextEdit(Protocol):
    """What an adapter gives to the seam."""

    name: str

    def edit(self, embeds: TextEmbeds, context: TextContext) -> TextEmbeds:
        """The embeddings as they shall be; shapes and dtypes stay."""
        ...


def listed(words: str) -> list[str]:
    """Words that are separated by commas; several in a row may belong together."""
    return [part for part in map(str.strip, words.split(",")) if part]


def word_rows(tokenizer: Any, text: str, words: str) -> list[int]:
    """Places of the tokens of ``words`` in the tokenised ``text``, every occurrence; empty if there is none.

    Words are found as whole words, whatever their case; tokens beyond the tokenizer's length are left out.

    Raises:
        BadInput: the tokenizer cannot say which letters a token stands for.
    """
    spans = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(words.strip())}(?!\w)", text, re.IGNORECASE)]
    places = offsets(tokenizer, text)
    return [
        n
        for n, (first, last) in enumerate(places)
        if last > first and any(first < end and last > start for start, end in spans)
    ]


def text_rows(tokenizer: Any, text: str) -> list[int]:
    """Places of the tokens that stand for letters of ``text``: neither start, end nor padding."""
    return [n for n, (first, last) in enumerate(offsets(tokenizer, text)) if last > first]


def padding_rows(tokenizer: Any, text: str) -> list[int]:
    """Places after the end token, which only fill the tokenizer's length."""
    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
    return list(range(len(ids), tokenizer.model_max_length))


def offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Which letters [first, last) of ``text`` each of its tokens stands for; empty ones for start and end.

    Raises:
        BadInput: the tokenizer cannot say.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            f"{type(tokenizer).__name__} does not say which letters its tokens stand for: load the pipeline "
            "with a tokenizer that has return_offsets_mapping (AutoTokenizer with use_fast=True)"
        )
    encoded = tokenizer(
        text, return_offsets_mapping=True, truncation=True, max_length=tokenizer.model_max_length
    )
    return [(int(first), int(last)) for first, last in encoded["offset_mapping"]]


class _Host:
    """Stands in for a pipeline's ``encode_prompt`` while edits are attached: an ordered list of them."""

    def __init__(self, pipe: Any):
        original = getattr(pipe, "encode_prompt", None)
        if not callable(original):
            raise SeamError(f"{type(pipe).__name__} has no encode_prompt: its text cannot be edited")
        self.original: Callable[..., Any] = original
        self.own = pipe.__dict__.get("encode_prompt")
        self.signature = inspect.signature(original)
        self.edits: list[TextEdit] = []

        @functools.wraps(original)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            return self.encode(pipe, *args, **kwargs)

        self.wrapper = encode_prompt
        pipe.encode_prompt = encode_prompt

    def encode(self, pipe: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        found = self.original(*args, **kwargs)
        context = self._context(pipe, self.signature.bind_partial(*args, **kwargs).arguments)
        width = context.encoders[-1].columns.stop if context.encoders else 0
        if len(found) not in (2, 4) or found[0].shape[-1] != width:
            raise SeamError(
                f"{type(pipe).__name__} encodes prompts in another way than Stable Diffusion 1, 2 and XL: "
                "they cannot be edited"
            )
        embeds = TextEmbeds(*found)
        for edit in self.edits:
            edited = edit.edit(embeds, context)
            _tell(edit.name, embeds.prompt, edited.prompt)
            embeds = edited
        return tuple(getattr(embeds, field.name) for field in fields(embeds))[: len(found)]

    def _context(self, pipe: Any, given: dict[str, Any]) -> TextContext:
        def encode(text: str) -> TextEmbeds:
            options: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
            options |= {name: given[name] for name in ("device", "clip_skip", "lora_scale") if name in given}
            return TextEmbeds(*self.original(prompt=text, **options))

        places = getattr(self.original, "places_words", True)
        prompt, second = (_texts(given.get(name)) if places else None for name in ("prompt", "prompt_2"))
        encoders = []
        for number, texts in (("", prompt), ("_2", second or prompt)):
            encoder = getattr(pipe, "text_encoder" + number, None)
            if encoder is not None:
                first = encoders[-1].columns.stop if encoders else 0
                columns = slice(first, first + int(encoder.config.hidden_size))
                encoders.append(Encoder(getattr(pipe, "tokenizer" + number), columns, texts))
        return TextContext(tuple(encoders), encode)

    def close(self, pipe: Any) -> None:
        if pipe.__dict__.get("encode_prompt") is not self.wrapper:
            raise SeamError(
                f"encode_prompt of {type(pipe).__name__} was replaced while an adapter was attached; what is "
                "there stays in place"
            )
        if self.own is None:
            del pipe.encode_prompt
        else:
            pipe.encode_prompt = self.own


_hosts: weakref.WeakKeyDictionary[Any, _Host] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def text_scope(pipe: Any, edits: Sequence[TextEdit]) -> Iterator[None]:
    """Let ``edits`` edit what ``pipe.encode_prompt`` returns, for the length of the scope.

    Raises:
        SeamError: the pipeline has no ``encode_prompt``, or it was replaced meanwhile.
    """
    host = _hosts.get(pipe)
    if host is None:
        host = _hosts[pipe] = _Host(pipe)
    host.edits += edits
    try:
        yield
    finally:
        host.edits[:] = [other for other in host.edits if not any(other is edit for edit in edits)]
        if not host.edits:
            del _hosts[pipe]
            host.close(pipe)


def _texts(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def _tell(name: str, before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape or before.dtype != after.dtype:
        raise SeamError(
            f"{name} turned text {tuple(before.shape)} {before.dtype} into {tuple(after.shape)} {after.dtype}"
        )
    if _log.isEnabledFor(logging.INFO):
        moved = float((after.float() - before.float()).norm() / before.float().norm())
        _log.info("%s moved the text by %.1f %%", name, 100 * moved)
