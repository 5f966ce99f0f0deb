"""AnyMaker's trained parts.

Paper: CustAny: Customizing Anything from A Single Example (arXiv:2406.11643; AnyMaker in its first versions).
It gives no sizes; those here are our own choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idpersona.adapters.key_values import KeyValueAttention


class AnyMakerMapper(ModelMixin, ConfigMixin):
    """What self-supervised encoders saw to one global token and many local ones.

    Args:
        dims: length of a token of each encoder.
        hidden: width inside the mapper of the global token.
        output_dim: width of a token that comes out.
        depth: transformer blocks over the tokens of each photo, in which what is spread over many patches
            comes together; for encoders that, unlike DINOv2, do not do so themselves.
    """

    @register_to_config
    def __init__(
        self,
        dims: Sequence[int] = (1024, 1024),
        hidden: int = 1536,
        output_dim: int = 768,
        depth: int = 0,
    ):
        super().__init__()
        self.mixing = nn.ModuleList(nn.ModuleList(_block(dim) for _ in range(depth)) for dim in dims)
        self.global_mlp = nn.Sequential(
            nn.LayerNorm(sum(dims) + output_dim),
            nn.Linear(sum(dims) + output_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, output_dim),
        )
        # Untrained it leaves the word as it is.
        nn.init.zeros_(self.global_mlp[3].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.global_mlp[3].bias)  # type: ignore[arg-type]
        self.local = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, output_dim), nn.LayerNorm(output_dim)) for dim in dims
        )

    def mixed(self, seen: Sequence[Tensor]) -> list[Tensor]:
        """Tokens [photos, n, dim] of each encoder after the blocks, each photo on its own; what the other
        methods take as ``seen``."""
        results = []
        for blocks, tokens in zip(self.mixing, seen, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                tokens = block(tokens.to(next(block.parameters()).dtype))
            results.append(tokens)
        return results

    def global_token(self, seen: Sequence[Tensor], word: Tensor) -> Tensor:
        """What takes the category word's place in the text, [people, output_dim].

        Args:
            seen: tokens [people, n, dim] of each encoder, class token first.
            word: the word's own embedding, [people, output_dim].
        """
        dtype = word.dtype
        classes = torch.cat([*(tokens[:, 0].to(dtype) for tokens in seen), word], dim=-1)
        kind = next(self.global_mlp.parameters()).dtype
        return word + self.global_mlp(classes.to(kind)).to(dtype)

    def local_tokens(self, seen: Sequence[Tensor]) -> Tensor:
        """Tokens for the local cross-attention, [people, sum of n, output_dim]; ``seen`` as above."""
        parts = [
            layer(tokens.to(next(layer.parameters()).dtype))
            for layer, tokens in zip(self.local, seen, strict=True)
        ]
        return torch.cat(parts, dim=1)


def _block(dim: int) -> BasicTransformerBlock:
    """Untrained it leaves tokens as they are."""
    block = BasicTransformerBlock(dim, max(dim // 64, 2), dim // max(dim // 64, 2))
    for module in (block.attn1.to_out[0], block.ff.net[2]):  # type: ignore[index]
        for weight in module.parameters():
            nn.init.zeros_(weight)
    return block


class AnyMakerCrossAttention(KeyValueAttention):
    """Keys and values of the local tokens for every cross-attention layer of the up blocks."""

    suffix = "loc"
