"""W+'s residual cross-attention: its query is what the text's cross-attention gave, not the hidden state."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from idpersona.adapters.wplus.modules import WPlusCrossAttention
from idpersona.seams.call import Call
from idpersona.seams.tokens import TokenBranch, TokenTerm


class _Residual(TokenTerm):
    def __init__(self, branch: ResidualBranch, layer: str, scale: float, call: Call):
        super().__init__(branch, layer, scale, call)
        self.to_q = branch.cross_attention.query(layer)

    def attention(self, attn: Any, query: Tensor, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        weight = next(self.to_q.parameters())
        own = self.to_q(text.to(weight.dtype)).to(text.dtype)
        return self.branch.kernel(attn, own, keys, values, None) * self.scale


class ResidualBranch(TokenBranch):
    """``scale * Attention(T W_q, p W_k, p W_v)`` added to the text's result T before the output projection.

    Arguments as for :class:`~idpersona.seams.tokens.TokenBranch`.
    """

    term = _Residual

    def __init__(self, cross_attention: WPlusCrossAttention, tokens: Tensor, **others: Any):
        super().__init__(cross_attention, tokens, **others)
        self.cross_attention = cross_attention
