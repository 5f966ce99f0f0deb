"""The usual ``cross`` branch: keys and values from identity tokens, the query shared with the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from idpersona.attention.kernels import sdpa
from idpersona.errors import BadInput
from idpersona.seams.call import Call
from idpersona.seams.mask import mask_at
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


class TokenBranch:
    """``scale * mask * Attention(query, tokens W_k, tokens W_v)``, decoupled from the text's attention.

    Args:
        projections: the trained keys and values of each layer.
        tokens: [people, n, dim]; people must divide the conditional rows of the batch, pictures of one
            person lying next to each other. In training, one row per sample.
        unconditional: [1, n, dim], what unconditional rows see; without it they see the person too.
        scale: one number, or a tensor [rows] or [] that may carry gradients (training: a gate per row).
        scales: numbers by layer name pattern, which replace ``scale`` there.
        mask: [people or 1, 1, H, W] in 0..1 over the canvas.
        start, end: the window of steps, as fractions.

    Keys and values are computed once per pipeline call; while gradients are recorded, in every pass.
    Layers whose scale is 0 are not touched at all.
    """

    def __init__(
        self,
        projections: KeyValueProjections,
        tokens: Tensor,
        *,
        unconditional: Tensor | None = None,
        scale: float | Tensor = 1.0,
        scales: Mapping[str, float] | None = None,
        mask: Tensor | None = None,
        start: float = 0.0,
        end: float = 1.0,
    ):
        check_window(start, end)
        if tokens.ndim != 3:
            raise BadInput(f"identity tokens must be [people, n, dim], got {tuple(tokens.shape)}")
        if mask is not None and mask.shape[0] not in (1, tokens.shape[0]):
            raise BadInput(f"{mask.shape[0]} masks for {tokens.shape[0]} identities")
        self.projections, self.tokens, self.unconditional = projections, tokens, unconditional
        self.mask, self.start, self.end = mask, start, end
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
        self._keys_values: dict[str, tuple[Tensor, Tensor]] = {}
        self._masks: Tensor | None = None
        self._cached: tuple[Any, ...] = ()

    @property
    def layers(self) -> list[str]:
        return [name for name, scale in self.scales.items() if scale != 0.0]

    def prepare(self, call: Call) -> None:
        self.active = call.within(self.start, self.end)
        if not self.active:
            return
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._compute(call)
            return
        key = (call.run, call.rows, call.guided)
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
        split = call.guided and self.unconditional is not None
        context = self.tokens
        if split and self.unconditional is not None:
            context = torch.cat([self.unconditional.to(context), context])
        rows = call.row_index(self.tokens.shape[0], unconditional=split)
        computed = self.projections(context, self.layers)
        spread = rows != list(range(context.shape[0]))
        self._keys_values = {
            name: (k[rows], v[rows]) if spread else (k, v) for name, (k, v) in computed.items()
        }
        if self.mask is not None:
            people = call.row_index(self.mask.shape[0], unconditional=False)
            self._masks = self.mask.to(context.device)[people]

    def add(self, layer: str, attn: Any, query: Tensor, text: Tensor, call: Call) -> Tensor | None:
        if not self.active:
            return None
        keys, values = (x.to(query.dtype) for x in self._keys_values[layer])
        result = sdpa(attn, query, keys, values) * self.scales[layer]
        if self.gate is not None:
            result = result * self.gate.to(result.dtype)
        if self._masks is not None:
            result = result * mask_at(self._masks, call.size, query.shape[1], layer).to(result.dtype)
        return result

    def release(self) -> None:
        self._keys_values, self._masks, self._cached = {}, None, ()
