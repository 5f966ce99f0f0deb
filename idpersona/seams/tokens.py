"""The usual ``cross`` branch: keys and values from identity tokens, the query shared with the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from idpersona.attention.kernels import Kernel, sdpa
from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import Call
from idpersona.seams.mask import MaskFor, mask_at, mask_of
from idpersona.seams.scale import check_scale, check_window, resolve_scales


class KeyValueProjections(Protocol):
    """Trained key and value projections, one pair per layer (an ``nn.Module``, so that hooks on it run)."""

    @property
    def layers(self) -> Sequence[str]: ...

    def __call__(
        self, tokens: Tensor, layers: Sequence[str] | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Tokens [rows, n, dim] to {layer: (keys, values)}, each [rows, n, channels of the layer]."""
        ...


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


class TokenTerm:
    """A token branch in one layer: that layer's keys, values and scale."""

    def __init__(self, branch: TokenBranch, layer: str, scale: float, call: Call):
        self.branch, self.layer, self.scale, self.call = branch, layer, scale, call
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.mask: Tensor | None = None

    def __call__(self, attn: Any, query: Tensor, text: Tensor) -> Tensor | None:
        if not self.branch.active:
            return None
        if self.keys is None or self.values is None:
            raise SeamError(f"{self.layer} was run outside of its model's forward pass")
        keys, values = self.keys.to(query.dtype), self.values.to(query.dtype)
        result = self.attention(attn, query, text, keys, values)
        if self.branch.gate is not None:
            result = result * self.branch.gate.to(result.dtype)
        if self.mask is not None:
            result = result * mask_at(self.mask, self.call.size, query.shape[1], self.layer).to(result.dtype)
        return result

    def attention(self, attn: Any, query: Tensor, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What the branch adds to ``text`` before gate and mask, [rows, N, C]; keys, values [rows, n, C]."""
        return self.branch.kernel(attn, query, keys, values, None) * self.scale


class TokenBranch:
    """``scale * mask * Attention(query, tokens W_k, tokens W_v)``, decoupled from the text's attention.

    Args:
        projections: the trained keys and values of each layer.
        tokens: [people, n, dim]; people must divide the conditional rows of the batch, pictures of one
            person lying next to each other. In training, one row per sample.
        unconditional: [1, n, dim], what unconditional rows see; without it they see the person too.
        scale: one number, or a tensor [rows] or [] that may carry gradients (training: a gate per row).
        scales: numbers by layer name pattern, which replace ``scale`` there.
        mask: [people or 1, 1, H, W] in 0..1 over the canvas, or a function that gives it for a :class:`Call`.
        start, end: the window of steps, as fractions.
        kernel: how attention is computed, see :mod:`idpersona.attention.kernels`.

    A subclass may merge otherwise, by a ``term`` of its own. Keys and values are computed once per pipeline
    call; while gradients are recorded, in every pass.
    Layers whose scale is 0 are not touched at all.
    """

    term: ClassVar[type[TokenTerm]] = TokenTerm

    def __init__(
        self,
        projections: KeyValueProjections,
        tokens: Tensor,
        *,
        unconditional: Tensor | None = None,
        scale: float | Tensor = 1.0,
        scales: Mapping[str, float] | None = None,
        mask: Tensor | MaskFor | None = None,
        start: float = 0.0,
        end: float = 1.0,
        kernel: Kernel = sdpa,
    ):
        check_window(start, end)
        if tokens.ndim != 3:
            raise BadInput(f"identity tokens must be [people, n, dim], got {tuple(tokens.shape)}")
        if isinstance(mask, Tensor) and mask.shape[0] not in (1, tokens.shape[0]):
            raise BadInput(f"{mask.shape[0]} masks for {tokens.shape[0]} identities")
        self.projections, self.tokens, self.unconditional = projections, tokens, unconditional
        self.mask, self.start, self.end, self.kernel = mask, start, end, kernel
        self.gate: Tensor | None = None
        if isinstance(scale, Tensor):
            if scales:
                raise BadInput("scale is a tensor: give no scales per layer beside it")
            if scale.ndim > 1:
                raise BadInput(f"a scale tensor must be [rows] or [], got {tuple(scale.shape)}")
            self.gate = scale.view(-1, 1, 1)
            self.scales = dict.fromkeys(projections.layers, 1.0)
        else:
            self.scales = resolve_scales(projections.layers, check_scale(scale), scales)
        self.active = False
        self._terms: list[TokenTerm] = []
        self._cached: tuple[Any, ...] = ()

    @property
    def layers(self) -> list[str]:
        return [name for name, scale in self.scales.items() if scale != 0.0]

    def prepare(self, call: Call) -> None:
        self.active = not call.quiet and call.within(self.start, self.end)
        if not self.active:
            return
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._compute(call)
            return
        key = (call.run, call.rows, call.guided, call.alike, call.size)
        # The tensors themselves are compared and kept: an address may be given to another tensor later.
        kept = self._cached
        if (
            kept
            and kept[0] is self.tokens
            and kept[1] is self.unconditional
            and kept[2] == (_version(self.tokens), key)
        ):
            return
        self._compute(call)
        self._cached = (self.tokens, self.unconditional, (_version(self.tokens), key))

    def _compute(self, call: Call) -> None:
        self._cached = ()
        split = call.guided and not call.alike and self.unconditional is not None
        context = self.tokens
        if split and self.unconditional is not None:
            context = torch.cat([self.unconditional.to(context), context])
        rows = call.row_index(self.tokens.shape[0], unconditional=split)
        computed = self.projections(context, self.layers)
        spread = rows != list(range(context.shape[0]))
        masks = mask_of(self.mask, call)
        if masks is not None:
            masks = masks.to(context.device)[call.row_index(masks.shape[0], unconditional=False)]
        for term in self._terms:
            keys, values = computed[term.layer]
            term.keys, term.values = (keys[rows], values[rows]) if spread else (keys, values)
            term.mask = masks

    def at(self, layer: str, call: Call) -> TokenTerm:
        term = self.term(self, layer, self.scales[layer], call)
        self._terms.append(term)
        return term

    def release(self) -> None:
        self._terms, self._cached = [], ()
