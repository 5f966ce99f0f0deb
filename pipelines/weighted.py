"""Long prompts and weighted words, by the library compel (https://github.com/damian0815/compel)."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from idpersona.errors import BadInput, SeamError


@contextlib.contextmanager
def weighted_prompts(pipe: Any) -> Iterator[None]:
    """Inside, prompts of ``pipe`` may be of any length and weigh their words.

    ``a (smiling)1.3 man with eyeglasses--`` is compel's syntax: a word or (a group) followed by a weight, or
    by ``+`` and ``-`` for 1.1 and 0.9 each. What is longer than the text encoder takes is split at sentences
    and encoded piece by piece. Without weights and within that length, the picture is the usual one.

    Works beside every adapter. Those that look up words of the prompt (DECOR's ``words``, AnyMaker's
    category) refuse: the places of words are not known in weighted text.

    Args:
        pipe: a pipeline of the SD1.x or SDXL family, the drop-ins of this package included.

    Raises:
        BadInput: compel is not installed; in a call: the prompt cannot be parsed, or ``clip_skip`` or a LoRA
            scale is given, which compel would not see.
        SeamError: the pipeline has no ``encode_prompt``.
    """
    original = getattr(pipe, "encode_prompt", None)
    if not callable(original):
        raise SeamError(f"{type(pipe).__name__} has no encode_prompt: its prompts cannot be weighted")
    compel = _compel(pipe)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs)
        if given.arguments.get("prompt") is not None:
            given.arguments |= _encode(pipe, compel, given.arguments)
        return original(*given.args, **given.kwargs)

    encode_prompt.places_words = False  # type: ignore[attr-defined] - idpersona.seams.text asks
    own = pipe.__dict__.get("encode_prompt")
    pipe.encode_prompt = encode_prompt
    try:
        yield
    finally:
        if own is None:
            del pipe.encode_prompt
        else:
            pipe.encode_prompt = own


def _compel(pipe: Any) -> Any:
    if find_spec("compel") is None:
        raise BadInput("weighted prompts need the package compel: pip install 'idpersona[prompts]'")
    from compel import CompelForSD, CompelForSDXL, DiffusersTextualInversionManager

    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, name, None)
        if encoder is not None and encoder.device.type == "meta":
            raise BadInput(
                "weighted prompts cannot be read while the text encoder is offloaded piece by piece: use "
                "enable_model_cpu_offload instead of enable_sequential_cpu_offload"
            )
    manager = DiffusersTextualInversionManager(pipe)
    kind = CompelForSD if getattr(pipe, "tokenizer_2", None) is None else CompelForSDXL
    return kind(pipe, textual_inversion_manager=manager)  # type: ignore[arg-type]


def _encode(pipe: Any, compel: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What takes the place of the texts among the arguments of ``encode_prompt``."""
    for name, neutral in (("clip_skip", None), ("lora_scale", 1.0)):
        if given.get(name) not in (None, neutral):
            raise BadInput(f"{name} cannot be given with weighted prompts, it would be left out")
    prompt, negative = _texts(given["prompt"]), _texts(given.get("negative_prompt"))
    # Where diffusers takes zeros for a negative prompt that is not given, it still does.
    zeros = bool(pipe.config.get("force_zeros_for_empty_prompt", False))
    guided = given.get("do_classifier_free_guidance", True)
    if guided and negative is None and not zeros:
        negative = [""]
    options: dict[str, Any] = {"negative_prompt": negative if guided else None}
    if hasattr(compel, "compel_2"):
        options["style_prompt"] = _texts(given.get("prompt_2"))
        if options["negative_prompt"] is not None:
            options["negative_style_prompt"] = _texts(given.get("negative_prompt_2"))
    try:
        found = compel(prompt, **options)
    except RuntimeError:  # of devices and memory, not of the text
        raise
    except Exception as error:  # what compel's parser and its checks come upon shares no type
        raise BadInput(f"the prompt cannot be read as weighted text: {error}") from error
    embeds = {
        "prompt_embeds": found.embeds,
        "negative_prompt_embeds": found.negative_embeds,
        "pooled_prompt_embeds": found.pooled_embeds,
        "negative_pooled_prompt_embeds": found.negative_pooled_embeds,
    }
    texts = {name: None for name in given if name.removeprefix("negative_") in ("prompt", "prompt_2")}
    return texts | {name: value for name, value in embeds.items() if value is not None}


def _texts(value: str | list[str] | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value
