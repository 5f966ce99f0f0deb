"""Attention kernels: queries, keys and values [batch, tokens, channels] to the shape of the queries.

``sdpa`` is torch's fused attention; ``eager`` writes the probabilities out, honouring a layer's own
up-casting; ``sliced`` does the same a few heads at a time to save memory. Each gives bit for bit what
diffusers' stock processor of that kind gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Kernel = Callable[[Any, Tensor, Tensor, Tensor, Tensor | None], Tensor]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, heads * dim] to [batch, heads, tokens, dim]."""
    batch, tokens, channels = x.shape
    return x.view(batch, tokens, heads, channels // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, heads, tokens, dim] to [batch, tokens, heads * dim]."""
    batch, heads, tokens, dim = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * dim)


def sdpa(attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fused attention; ``mask`` is additive, [batch * heads, 1, keys] as diffusers prepares it."""
    if mask is not None:
        mask = mask.view(query.shape[0], attn.heads, -1, mask.shape[-1])
    q, k, v = (split_heads(x, attn.heads) for x in (query, key, value))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)).to(query.dtype)


def eager(attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention with its probabilities written out, computed by the layer's own helpers."""
    q, k, v = (attn.head_to_batch_dim(x) for x in (query, key, value))
    return attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(q, k, mask), v))


def sliced(slice_size: int) -> Kernel:
    """A kernel that works on ``slice_size`` (batch, head) pairs at a time."""

    def kernel(attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (attn.head_to_batch_dim(x) for x in (query, key, value))
        parts = []
        for start in range(0, q.shape[0], slice_size):
            part = slice(start, start + slice_size)
            scores = attn.get_attention_scores(q[part], k[part], None if mask is None else mask[part])
            parts.append(torch.bmm(scores, v[part]))
        return attn.batch_to_head_dim(torch.cat(parts))

    return kernel


def stock_kernel(attn: Attention) -> Kernel | None:
    """What repeats the layer's stock processor bit for bit; None if layer or processor is not plain."""
    plain = (
        attn.spatial_norm is None
        and attn.group_norm is None
        and attn.norm_q is None
        and attn.norm_k is None
        and not attn.residual_connection
        and not attn.fused_projections
    )
    kind = type(attn.processor)
    if not plain:
        return None
    if kind is AttnProcessor2_0:
        return sdpa
    if kind is AttnProcessor:
        return eager
    if kind is SlicedAttnProcessor:
        return sliced(attn.processor.slice_size)  # type: ignore[attr-defined]
    return None
