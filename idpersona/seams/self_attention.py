"""The seam ``self``: in self-attention, rows see keys and values of other rows, or of another pass.

What stands around a layer's attention is a *mixer* (:data:`idpersona.seams.host.Mixer`). :class:`MixedBranch`
is the usual one: the queries of the readers attend to their own keys and values and to those of a source.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import Call
from idpersona.seams.host import Attend, add_mixer, remove_mixer
from idpersona.seams.layers import LayerBranch, attention_layers, layer_scope
from idpersona.seams.mask import MaskFor, mask_at, mask_of
from idpersona.seams.scale import check_window

SelfBranch = LayerBranch
"""Its ``at`` gives a :data:`idpersona.seams.host.Mixer`."""


def self_layers(model: nn.Module) -> dict[str, Attention]:
    """The self-attention layers of a denoiser by module name, in the order of the module tree."""
    return attention_layers(model, cross=False)


@contextlib.contextmanager
def self_scope(
    model: nn.Module, branches: Sequence[SelfBranch], *, call: Call | None = None, pipe: Any = None
) -> Iterator[None]:
    """Put ``branches`` around the self-attention of ``model`` for the length of the scope.

    Arguments as for :func:`~idpersona.seams.cross.cross_scope`; the branch put in last stands outermost.

    Raises:
        SeamError: a branch names a layer that the model does not have, or a layer has a processor that is
            none of diffusers' stock ones; it is named.
    """
    layers = self_layers(model)
    with layer_scope(
        model, branches, layers, add_mixer, remove_mixer, what="self-attention", call=call, pipe=pipe
    ):
        yield


def adain_mean(values: Tensor, reference: Tensor) -> Tensor:
    """``values`` [B, N, C] with the mean over its tokens replaced by that of ``reference`` [B, M, C].

    The mean only: with the spread too (AdaIN), identity suffered (Infinite-ID, arXiv:2403.11781).
    """
    return values - values.mean(dim=1, keepdim=True) + reference.mean(dim=1, keepdim=True)


class Source(Protocol):
    """Where the other keys and values come from.

    Attributes:
        recording: the pass under way is there to give keys and values, not to read them.
    """

    recording: bool

    def rows(self, call: Call) -> tuple[list[int], list[int]] | None:
        """Rows that read, and the row of the batch that each reads.

        None: all rows read, each the same row of the last pass that was recorded.
        """
        ...


class BatchSource:
    """Pictures of the batch that others read.

    Args:
        pairs: {picture that reads: picture that it reads}, counted from 0 without the unconditional half,
            whose rows pair in the same way.
    """

    def __init__(self, pairs: Mapping[int, int]):
        if not pairs or any(not isinstance(n, int) or n < 0 for pair in pairs.items() for n in pair):
            raise BadInput(f"pairs of pictures are whole numbers from 0 on, got {dict(pairs)}")
        self.pairs = dict(pairs)
        self.recording = False

    def rows(self, call: Call) -> tuple[list[int], list[int]]:
        pictures = call.rows // 2 if call.guided else call.rows
        if max(*self.pairs, *self.pairs.values()) >= pictures:
            raise SeamError(f"pairs {self.pairs} in a batch of {pictures} pictures")
        halves = [0, pictures] if call.guided else [0]
        readers = [half + n for half in halves for n in self.pairs]
        return readers, [half + n for half in halves for n in self.pairs.values()]


class _Mixed:
    """A mixed branch around one layer."""

    def __init__(self, branch: MixedBranch, layer: str, call: Call):
        self.branch, self.layer, self.call = branch, layer, call
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def __call__(
        self, attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attend: Attend
    ) -> Tensor:
        branch = self.branch
        if branch.source.recording:
            self.key, self.value = key, value
            return attend(query, key, value, mask)
        if not branch.active:
            return attend(query, key, value, mask)
        if branch.pairs is None:
            if self.key is None or self.value is None:
                raise SeamError(f"{self.layer} has nothing to read: its stream was not drawn in this step")
            others = (self.key, self.value)
            mixed = self._mix(attn, query, key, value, others, mask, attend)
            if branch.region is None:
                return mixed
            return self._inside(mixed, attend(query, key, value, mask), branch.region)
        readers, sources = branch.pairs
        result = attend(query, key, value, mask)
        part = None if mask is None else mask.unflatten(0, (-1, attn.heads))[readers].flatten(0, 1)
        own = (query[readers], key[readers], value[readers])
        mixed = self._mix(attn, *own, (key[sources], value[sources]), part, attend)
        if branch.region is not None:
            mixed = self._inside(mixed, result[readers], branch.region[readers])
        return result.index_copy(0, torch.tensor(readers, device=result.device), mixed)

    def _mix(
        self,
        attn: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        others: tuple[Tensor, Tensor],
        mask: Tensor | None,
        attend: Attend,
    ) -> Tensor:
        branch = self.branch
        other_key, other_value = others[0].to(key.dtype), others[1].to(value.dtype)
        if branch.style_merge:
            key, value = adain_mean(key, other_key), adain_mean(value, other_value)
        if mask is not None or branch.strength != 1.0:
            rows = query.shape[0] * attn.heads
            own = query.new_zeros(rows, 1, key.shape[1]) if mask is None else mask
            # exp(log s) = s: a key of strength s draws s times the attention that it would draw.
            bias = query.new_full((rows, 1, other_key.shape[1]), math.log(branch.strength))
            mask = torch.cat([own, bias], dim=-1)
        return attend(query, torch.cat([key, other_key], 1), torch.cat([value, other_value], 1), mask)

    def _inside(self, mixed: Tensor, own: Tensor, region: Tensor) -> Tensor:
        where = mask_at(region, self.call.size, own.shape[1], self.layer).to(own.dtype)
        return torch.lerp(own, mixed, where)  # exact at 0 and at 1


class MixedBranch:
    """``Attention(Q, [K; K_s], [V; V_s])`` in the readers' self-attention (Infinite-ID, arXiv:2403.11781).

    Args:
        source: whose keys K_s and values V_s are read.
        layers: names of the self-attention layers.
        strength: > 0, factor on the attention that the source's keys draw; 1 is the published form.
        style_merge: K and V get the mean over tokens of K_s and V_s first (:func:`adain_mean`).
        mask: [people or 1, 1, H, W] in 0..1 over the canvas, or a function that gives it; outside, the
            readers attend to themselves alone.
        start, end: the window of steps, as fractions.
    """

    def __init__(
        self,
        source: Source,
        layers: Sequence[str],
        *,
        strength: float = 1.0,
        style_merge: bool = False,
        mask: Tensor | MaskFor | None = None,
        start: float = 0.0,
        end: float = 1.0,
    ):
        check_window(start, end)
        if not (math.isfinite(strength) and strength > 0):
            raise BadInput(f"the strength of mixed attention must be above 0, got {strength}")
        self.source, self.layers = source, list(layers)
        self.strength, self.style_merge, self.mask = strength, style_merge, mask
        self.start, self.end = start, end
        self.active = False
        self.pairs: tuple[list[int], list[int]] | None = None
        self.region: Tensor | None = None
        self._terms: list[_Mixed] = []

    def prepare(self, call: Call) -> None:
        self.active = not call.quiet and call.within(self.start, self.end)
        if not self.active:
            return
        self.pairs = self.source.rows(call)
        region = mask_of(self.mask, call)
        if region is not None:
            rows = call.row_index(region.shape[0], unconditional=False)
            self.region = region[rows].to(call.device)

    def at(self, layer: str, call: Call) -> _Mixed:
        term = _Mixed(self, layer, call)
        self._terms.append(term)
        return term

    def release(self) -> None:
        for term in self._terms:
            term.key = term.value = None
        self._terms, self.pairs, self.region = [], None, None
