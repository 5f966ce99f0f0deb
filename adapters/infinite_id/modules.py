"""Infinite-ID's trained parts.

Paper: Infinite-ID: Identity-preserved Personalization via ID-semantics Decoupling Paradigm
(arXiv:2403.11781). It gives no sizes for its two mappers; those here are our own choice.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idpersona.adapters.key_values import KeyValueAttention


class InfiniteIDMapper(ModelMixin, ConfigMixin):
    """Hidden states of the image encoder and a face vector to identity tokens.

    Input: image [people, n, image_dim] and face [people, face_dim]; output [people, n + face_tokens,
    output_dim]. The unconditional tokens are this module applied to zeros.
    """

    @register_to_config
    def __init__(
        self,
        image_dim: int = 1280,
        face_dim: int = 512,
        face_tokens: int = 4,
        face_hidden: int = 1024,
        output_dim: int = 2048,
    ):
        super().__init__()
        self.clip_mapper = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, output_dim),
            nn.GELU(),
            nn.Linear(output_dim, output_dim),
            nn.LayerNorm(output_dim),
        )
        self.face_mapper = nn.Sequential(
            nn.Linear(face_dim, face_hidden), nn.GELU(), nn.Linear(face_hidden, face_tokens * output_dim)
        )
        self.face_norm = nn.LayerNorm(output_dim)

    def forward(self, image: Tensor, face: Tensor) -> Tensor:
        dtype = self.face_norm.weight.dtype
        seen = self.clip_mapper(image.to(dtype))
        known = self.face_mapper(face.to(dtype)).unflatten(-1, (-1, seen.shape[-1]))
        return torch.cat([seen, self.face_norm(known)], dim=1)


class InfiniteIDCrossAttention(KeyValueAttention):
    """Keys and values of the identity tokens for every cross-attention layer of a base."""

    suffix = "id"
