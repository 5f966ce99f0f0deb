"""InstantID's trained parts beside IdentityNet, which is a stock ``diffusers.ControlNetModel``.

Paper: InstantID: Zero-shot Identity-Preserving Generation in Seconds (arXiv:2401.07519).
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idpersona.adapters.key_values import KeyValueAttention


class _PerceiverAttention(nn.Module):
    """Latents attend to the face vectors and to themselves."""

    def __init__(self, dim: int, dim_head: int, heads: int):
        super().__init__()
        inner = dim_head * heads
        self.heads, self.dim_head = heads, dim_head
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, face: Tensor, latents: Tensor) -> Tensor:
        face, latents = self.norm1(face), self.norm2(latents)
        q = self.to_q(latents)
        k, v = self.to_kv(torch.cat([face, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2) for x in (q, k, v))
        # Half of the softmax scale on each factor keeps the product inside fp16; softmax itself in fp32.
        half = self.dim_head**-0.25
        weights = ((q * half) @ (k * half).transpose(-2, -1)).float().softmax(dim=-1).to(v.dtype)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


def _feed_forward(dim: int, mult: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, dim * mult, bias=False),
        nn.GELU(),
        nn.Linear(dim * mult, dim, bias=False),
    )


class InstantIDProjector(ModelMixin, ConfigMixin):
    """Face vectors to identity tokens: a Perceiver resampler with the published key names.

    Input [people, embedding_dim] or [people, photos, embedding_dim] (un-normalised face vectors), output
    [people, num_tokens, output_dim]. The unconditional tokens are this module applied to a zero vector.
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        dim: int = 1280,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 20,
        num_tokens: int = 16,
        output_dim: int = 2048,
        ff_mult: int = 4,
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([_PerceiverAttention(dim, dim_head, heads), _feed_forward(dim, ff_mult)])
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)

    def forward(self, face: Tensor) -> Tensor:
        if face.ndim == 2:
            face = face[:, None]
        face = self.proj_in(face.to(self.latents.dtype))
        latents = self.latents.expand(face.shape[0], -1, -1)
        for attention, feed_forward in self.layers:  # type: ignore[misc]
            latents = latents + attention(face, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class IdentityCrossAttention(KeyValueAttention):
    """Keys and values of the identity tokens for every cross-attention layer of a base."""

    suffix = "ip"
