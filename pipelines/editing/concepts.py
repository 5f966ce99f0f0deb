"""Edits by concepts (LEDITS++): words that come are strengthened where they act, others are weakened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.base import is_changed
from idpersona.pipelines.inversion.ledits import Ledits, ledits_scope
from idpersona.pipelines.inversion.record import Inversion

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_FUNCTION = re.compile(
    r"an?|the|this|that|these|those|his|her|its|their|of|with|without|and|or|but|no|not|in|on|at|to|by|from|for|"
    r"as|is|are|was|were|be|being|who|which|wearing|having",
    re.IGNORECASE,
)
"""Words that stand for nothing one could see."""


@dataclass(frozen=True)
class Concept:
    """Words of a prompt as they stand there; they go where ``goes``, else they come."""

    words: str
    goes: bool = False


def concepts(source: str, target: str) -> list[Concept]:
    """What two prompts do not have in common, word by word, whatever case and punctuation.

    Neighbouring words are one concept, unless there is punctuation between them; function words at its ends
    do not belong to it. What only stands elsewhere in the other prompt neither comes nor goes.

    Raises:
        BadInput: they have all words in common, but for function words.
    """
    before, after = (list(_WORD.finditer(text)) for text in (source, target))
    pairs = _common(*([match.group().casefold() for match in words] for words in (before, after)))
    going = list(_phrases(source, before, {one for one, _ in pairs}))
    coming = list(_phrases(target, after, {other for _, other in pairs}))
    moved = {text.casefold() for text in going} & {text.casefold() for text in coming}
    found = [Concept(text) for text in coming] + [Concept(text, goes=True) for text in going]
    found = [concept for concept in dict.fromkeys(found) if concept.words.casefold() not in moved]
    if not found:
        raise BadInput(
            f"'{source}' and '{target}' say the same: ledits edits by words that come or go, so add some or "
            "leave some out"
        )
    return found


def _common(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the most words that two texts have in common in one order; function words count little."""
    best = np.zeros((len(before) + 1, len(after) + 1), dtype=np.int64)
    for i, one in enumerate(before, 1):
        for j, other in enumerate(after, 1):
            both = best[i - 1, j - 1] + (1 if _FUNCTION.fullmatch(one) else 1000) if one == other else 0
            best[i, j] = max(both, best[i - 1, j], best[i, j - 1])
    pairs: list[tuple[int, int]] = []
    i, j = len(before), len(after)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs


def _phrases(text: str, words: Sequence[re.Match[str]], common: set[int]) -> Iterator[str]:
    """Runs of words that are not ``common`` and have no punctuation between them, trimmed."""
    run: list[str] = []
    for n, match in enumerate(words):
        if n not in common:
            run.append(match.group())
        between = text[match.end() : words[n + 1].start()] if n + 1 < len(words) else "."
        if n in common or between.strip():
            seen = [place for place, word in enumerate(run) if not _FUNCTION.fullmatch(word)]
            if seen:
                yield " ".join(run[seen[0] : seen[-1] + 1])
            run = []


def draw_concepts(
    pipe: Any,
    record: Inversion,
    prompts: Sequence[str],
    *,
    guidance: float,
    region: Tensor | None = None,
    output_type: str = "pil",
    on_step: Callable[..., Any] | None = None,
) -> tuple[Any, Any, list[bool]]:
    """Draw the photos of a ``ledits`` record with what ``prompts`` say otherwise, and as they are.

    Edits are drawn one by one (in a batch diffusers mixes up their attention), each with as many rows as it
    has concepts and one more; the photos as they are in one batch, which takes as many steps again.

    Args:
        pipe: the pipeline that they were inverted with.
        record: on its device.
        prompts: one for each photo.
        guidance: scale of every concept.
        region: float [1, 1, h, w] in 0..1 at the latents' size; where it is 0 the photo is held.
        output_type: ``pil``, ``np``, ``pt`` or ``latent``.
        on_step: ``callback_on_step_end``, for the steps of the edits.

    Returns:
        The edits and the photos, as ``output_type`` says, and which edits the base's safety checker blocked.

    Raises:
        BadInput: two prompts have all words in common, the pipeline is none for ledits, or an adapter is
            attached.
    """
    method = _method(pipe, record)
    wanted = [concepts(*pair) for pair in zip(record.prompts, prompts, strict=True)]
    images: list[Any] = []
    blocked: list[bool] = []
    with ledits_scope(pipe, record.scheduler, record.size) as ledits:
        for n, changes in enumerate(wanted):
            method.resume(ledits, record, slice(n, n + 1))
            drawn = ledits(
                editing_prompt=[concept.words for concept in changes],
                reverse_editing_direction=[concept.goes for concept in changes],
                edit_guidance_scale=guidance,
                edit_threshold=method.threshold,
                edit_warmup_steps=method.warmup,
                use_intersect_mask=method.intersects(pipe),
                user_mask=None if region is None else region.to(pipe.unet.dtype),
                output_type=output_type,
                callback_on_step_end=_stepped(record.latents[:, n : n + 1], region, on_step),
            )
            images.append(drawn.images)
            blocked += drawn.nsfw_content_detected or [False]
    return _joined(images), draw_back(pipe, record, output_type), blocked


def draw_back(pipe: Any, record: Inversion, output_type: str = "pil") -> Any:
    """The photos of a ``ledits`` record as they are, in one batch of one row for each.

    Raises:
        BadInput: as :func:`draw_concepts`.
    """
    method = _method(pipe, record)
    with ledits_scope(pipe, record.scheduler, record.size) as ledits:
        method.resume(ledits, record, slice(None))
        ledits.set_progress_bar_config(disable=True)
        return ledits(use_intersect_mask=False, output_type=output_type).images


def _method(pipe: Any, record: Inversion) -> Ledits:
    method = Ledits(**(record.options or {}))
    method.refuse(pipe)
    if is_changed(pipe):
        raise BadInput(
            "ledits draws with attention and prompts of its own, in which attached adapters and weighted "
            "prompts have no part: leave their scope, or invert with direct"
        )
    return method


def _stepped(pivots: Tensor, region: Tensor | None, on_step: Callable[..., Any] | None) -> Callable[..., Any]:
    """After each step, outside of the region the photo's own latents; then what the caller wants."""

    def stepped(ledits: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if region is not None:
            pivot = pivots[len(pivots) - 2 - step].to(values["latents"])
            values["latents"] = pivot + region.to(pivot) * (values["latents"] - pivot)
        return values if on_step is None else values | on_step(ledits, step, timestep, values)

    return stepped


def _joined(images: list[Any]) -> Any:
    if isinstance(images[0], Tensor):
        return torch.cat(images)
    if isinstance(images[0], np.ndarray):
        return np.concatenate(images)
    return [image for several in images for image in several]
