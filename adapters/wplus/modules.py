"""The W+ adapter's trained parts, with the published key names.

Paper: When StyleGAN Meets Stable Diffusion: a W+ Adapter for Personalized Image Generation
(arXiv:2311.17461).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idpersona.adapters.key_values import KeyValueAttention


class WPlusMapper(ModelMixin, ConfigMixin):
    """W+ codes [people, rows, dim] to tokens [people, len(groups), output_dim].

    Neighbouring rows are laid end to end and projected without a bias, each group by its own matrix; one
    normalisation is shared. The unconditional tokens are this module applied to zeros.

    Args:
        dim: length of a row.
        groups: rows of each token, from the first on.
        output_dim: width of a token.
    """

    @register_to_config
    def __init__(self, dim: int = 512, groups: Sequence[int] = (4, 4, 4, 6), output_dim: int = 768):
        super().__init__()
        for number, rows in enumerate(groups):
            self.add_module(f"proj_{number}", nn.Linear(rows * dim, output_dim, bias=False))
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, codes: Tensor) -> Tensor:
        parts = codes.to(self.norm.weight.dtype).split(list(self.config["groups"]), dim=1)
        tokens = [self.get_submodule(f"proj_{n}")(part.flatten(1)) for n, part in enumerate(parts)]
        return self.norm(torch.stack(tokens, dim=1))


class WPlusCrossAttention(KeyValueAttention):
    """Queries from the text's result, keys and values from W+ tokens, for every cross-attention layer.

    Its own queries are ``<layer name>.to_q_wplus.weight`` [channels, channels].
    """

    suffix = "wplus"

    def add_projections(self, layer: nn.Module, channels: int, width: int) -> None:
        super().add_projections(layer, channels, width)
        layer.add_module("to_q_wplus", nn.Linear(channels, channels, bias=False))

    def query(self, layer: str) -> nn.Module:
        """The projection of the text's result [B, N, channels] to queries of that shape."""
        return self.get_submodule(layer).get_submodule("to_q_wplus")
