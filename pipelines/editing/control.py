"""Prompt-to-Prompt: a picture drawn beside its source takes over the source's attention (arXiv:2208.01626).

Rows of a batch come in pairs: a source and its target, (0, 1), (2, 3) …. Only layers and steps that are
controlled write their probabilities out; all others keep the pipeline's own kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idpersona.errors import BadInput, SeamError
from idpersona.pipelines.editing.alignment import refine_map, replace_map
from idpersona.pipelines.editing.blend import LocalBlend, blend_grid
from idpersona.pipelines.editing.spec import Control, window
from idpersona.seams.call import Call, call_scope
from idpersona.seams.cross import cross_layers
from idpersona.seams.host import Attend, add_mixer, remove_mixer
from idpersona.seams.layers import layer_scope
from idpersona.seams.mask import layer_grid
from idpersona.seams.self_attention import self_layers, self_scope
from idpersona.seams.text import listed, word_rows

# Layers of so few queries along a side are coarse for any picture; all of a small base's are.
_COARSE = 16


@dataclass(frozen=True)
class _Plan:
    """One pair's tables: the map of its tokens, the steps in which each is taken, and weights."""

    table: Tensor  # float32 [tokens, tokens], A_source @ table
    known: Tensor  # float32 [tokens], 1 where a target token has a source
    first: Tensor  # float32 [tokens], window of steps
    last: Tensor
    weights: Tensor  # float32 [tokens]


def plan(tokenizer: Any, control: Control, source: str, target: str) -> _Plan:
    """Tables for one pair of prompts.

    Raises:
        BadInput: a word is not in its prompt, or the prompts do not fit the kind of edit.
    """
    length = tokenizer.model_max_length
    if control.kind == "replace":
        table, known = replace_map(tokenizer, source, target)
    else:
        mapper, known = refine_map(tokenizer, source, target)
        table = torch.zeros(length, length)
        table[mapper, torch.arange(length)] = 1
    by_word = control.cross if isinstance(control.cross, Mapping) else {"default": control.cross}
    first, last = (torch.full((length,), bound) for bound in window(by_word.get("default", 0.8)))
    for word, value in by_word.items():
        if word != "default":
            rows = places(tokenizer, target, word, "cross")
            first[rows], last[rows] = window(value)
    weights = torch.ones(length)
    for word, factor in control.reweight.items():
        weights[places(tokenizer, target, word, "reweight")] = factor
    return _Plan(table, known, first, last, weights)


def places(tokenizer: Any, prompt: str, words: str, what: str) -> list[int]:
    """Tokens of ``words`` (separated by commas) in ``prompt``; BadInput naming ``what`` if there are none."""
    found = []
    for part in listed(words):
        rows = word_rows(tokenizer, prompt, part)
        if not rows:
            raise BadInput(f"{what}: the prompt '{prompt}' does not hold '{part}'")
        found += rows
    if not found:
        raise BadInput(f"{what}: name at least one word of the prompt '{prompt}'")
    return sorted(set(found))


class AttentionControl:
    """What :func:`control_scope` puts into a pipeline.

    Args:
        pipe: with ``tokenizer`` and ``unet``.
        control: what to take over.
        prompts: (source, target) of each pair.

    Raises:
        BadInput: as for :func:`plan`.
    """

    def __init__(self, pipe: Any, control: Control, prompts: Sequence[tuple[str, str]]):
        self.control = control
        tokenizer = pipe.tokenizer
        plans = [plan(tokenizer, control, *pair) for pair in prompts]
        self.table = torch.stack([p.table for p in plans])
        self.known = torch.stack([p.known for p in plans])
        self.windows = torch.stack([p.first for p in plans]), torch.stack([p.last for p in plans])
        self.weights = torch.stack([p.weights for p in plans])
        self.reweights = bool((self.weights != 1).any())
        self.pairs = len(plans)
        self.blend = None
        if control.blend is not None:
            words = torch.zeros(2 * self.pairs, tokenizer.model_max_length)
            for n, pair in enumerate(prompts):
                for m, (text, named) in enumerate(zip(pair, control.blend, strict=True)):
                    if named:
                        words[2 * n + m, places(tokenizer, text, named, "blend")] = 1
            self.blend = LocalBlend(words, control.threshold)
        self.cross = _CrossControl(self, list(cross_layers(pipe.unet)))
        self.self_attention = _SelfControl(self, list(self_layers(pipe.unet)))

    def rows(self, call: Call) -> tuple[int, int]:
        """First conditional row, and number of conditional rows."""
        pictures = call.rows // 2 if call.guided else call.rows
        if pictures != 2 * self.pairs:
            raise SeamError(f"{self.pairs} pairs of pictures are controlled, the batch holds {pictures}")
        return call.rows - pictures, pictures

    def taken(self, call: Call) -> Tensor:
        """Share of the source's attention that each target token takes at this step, [pairs, tokens]."""
        step, steps = call.step()
        first, last = self.windows
        inside = (step / steps >= first) & (step / steps < last)
        return inside.float() * self.known

    def edited(self, probabilities: Tensor, taken: Tensor | None) -> Tensor:
        """Probabilities [2 pairs, heads, queries, tokens], the targets' edited."""
        sources, targets = probabilities.unflatten(0, (-1, 2)).unbind(1)
        if taken is not None:
            table, share = self.table.to(sources), taken.to(sources)[:, None, None]
            targets = torch.einsum("phqs,pst->phqt", sources, table) * share + targets * (1 - share)
        if self.reweights:
            targets = targets * self.weights.to(targets)[:, None, None]
        return torch.stack([sources, targets], dim=1).flatten(0, 1)

    def stepped(self, latents: Tensor, step: int, steps: int) -> Tensor:
        """Latents [2 pairs, C, h, w] after a step, targets held to their sources where and while asked."""
        # The tolerance: 1 - 0.8 is less than 0.2 in binary.
        if (step + 1) / steps + self.control.strength <= 1 + 1e-9:
            return latents[::2].repeat_interleave(2, dim=0)
        if self.blend is None or (step + 1) / steps <= self.control.blend_from:
            return latents
        mask = self.blend.mask((latents.shape[-2], latents.shape[-1])).unflatten(0, (-1, 2)).any(dim=1)
        sources, targets = latents.unflatten(0, (-1, 2)).unbind(1)
        held = torch.where(mask, targets, sources)
        return torch.stack([sources, held], dim=1).flatten(0, 1)


class _CrossControl:
    """The cross-attention layers' part."""

    def __init__(self, owner: AttentionControl, layers: Sequence[str]):
        self.owner, self.layers = owner, layers
        self.taken: Tensor | None = None
        self.quiet = True
        self.grids: dict[int, tuple[int, int] | None] = {}

    def prepare(self, call: Call) -> None:
        self.quiet = call.quiet
        if self.quiet:
            return
        owner = self.owner
        owner.rows(call)
        taken = owner.taken(call)
        self.taken = taken.to(call.device) if bool(taken.any()) else None
        self.grids = {}

    def at(self, layer: str, call: Call) -> Any:
        def mix(
            attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attend: Attend
        ) -> Tensor:
            owner, tokens = self.owner, query.shape[1]
            if self.quiet:
                return attend(query, key, value, mask)
            if tokens not in self.grids:
                self.grids[tokens] = blend_grid(call.size, tokens)
            seen = self.grids[tokens] if owner.blend is not None else None
            if self.taken is None and not owner.reweights and seen is None:
                return attend(query, key, value, mask)
            start, _ = owner.rows(call)
            told = None if mask is None else mask.unflatten(0, (-1, attn.heads))
            result = self._explicit(
                attn,
                query[start:],
                key[start:],
                value[start:],
                None if told is None else told[start:].flatten(0, 1),
                seen,
            )
            if not start:
                return result
            rest = None if told is None else told[:start].flatten(0, 1)
            return torch.cat([attend(query[:start], key[:start], value[:start], rest), result])

        return mix

    def _explicit(
        self,
        attn: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        seen: tuple[int, int] | None,
    ) -> Tensor:
        q, k, v = (attn.head_to_batch_dim(x) for x in (query, key, value))
        scores = attn.get_attention_scores(q, k, mask).unflatten(0, (-1, attn.heads))
        scores = self.owner.edited(scores, self.taken)
        if seen is not None and self.owner.blend is not None:
            self.owner.blend.add(scores.detach(), seen)
        return attn.batch_to_head_dim(torch.bmm(scores.flatten(0, 1).to(v.dtype), v))

    def release(self) -> None:
        self.taken = None
        if self.owner.blend is not None:
            self.owner.blend.clear()


class _SelfControl:
    """The self-attention's part: targets ask and find as their sources do, and read their own values."""

    def __init__(self, owner: AttentionControl, layers: Sequence[str]):
        self.owner, self.layers = owner, layers
        self.most = 0

    def prepare(self, call: Call) -> None:
        self.most = 0
        if call.quiet:
            return
        first, last = window(self.owner.control.self_attention)
        step, steps = call.step()
        if first <= step / steps < last:
            share = self.owner.control.self_side
            self.most = int(max(max(call.size) * share, min(_COARSE, max(call.size))))

    def at(self, layer: str, call: Call) -> Any:
        def mix(
            attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attend: Attend
        ) -> Tensor:
            grid = layer_grid(call.size, query.shape[1]) if self.most else None
            if grid is None or max(grid) > self.most:
                return attend(query, key, value, mask)
            start, pictures = self.owner.rows(call)
            rows = torch.arange(start + pictures, device=query.device)
            odd = (rows >= start) & ((rows - start) % 2 == 1)
            source = rows - odd.long()
            return attend(query[source], key[source], value, mask)

        return mix

    def release(self) -> None:
        self.most = 0


@contextlib.contextmanager
def control_scope(pipe: Any, control: AttentionControl) -> Iterator[None]:
    """Put ``control`` into the attention of ``pipe`` for the length of the scope.

    Raises:
        SeamError: a layer has a processor that is none of diffusers' stock ones; it is named.
    """
    model = pipe.unet
    with contextlib.ExitStack() as stack:
        call = stack.enter_context(call_scope(model, pipe))
        stack.enter_context(
            layer_scope(
                model,
                [control.cross],
                cross_layers(model),
                add_mixer,
                remove_mixer,
                what="cross-attention",
                call=call,
                pipe=pipe,
            )
        )
        stack.enter_context(self_scope(model, [control.self_attention], call=call))
        yield
