"""Trained keys and values of identity tokens, one pair of projections per attention layer of a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idpersona.errors import CheckpointError
from idpersona.seams.cross import cross_layers


class KeyValueAttention(ModelMixin, ConfigMixin):
    """Projections named after the layers: ``<layer name>.to_k_<suffix>.weight`` and ``to_v_<suffix>``.

    Args:
        geometry: {layer name: (channels of the layer, width of a token)}, in the base's order.
    """

    suffix: ClassVar[str]

    @register_to_config
    def __init__(self, geometry: Mapping[str, Sequence[int]]):
        super().__init__()
        for name, (channels, width) in geometry.items():
            pair: nn.Module = self
            for part in name.split("."):
                if part not in pair._modules:
                    pair.add_module(part, nn.Module())
                pair = pair.get_submodule(part)
            self.add_projections(pair, channels, width)

    def add_projections(self, layer: nn.Module, channels: int, width: int) -> None:
        """Give ``layer`` its projections."""
        layer.add_module(f"to_k_{self.suffix}", nn.Linear(width, channels, bias=False))
        layer.add_module(f"to_v_{self.suffix}", nn.Linear(width, channels, bias=False))

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order of the geometry."""
        return list(self.config["geometry"])

    @classmethod
    def from_unet(
        cls, unet: nn.Module, *, copy_weights: bool = False, layers: Sequence[str] | None = None
    ) -> Self:
        """Shaped for the cross-attention layers of ``unet``, or for those of them named by ``layers``.

        ``copy_weights`` starts training from the base's own projections for the text.
        """
        found = cross_layers(unet)
        chosen = {name: found[name] for name in (found if layers is None else layers)}
        module = cls({name: (attn.inner_dim, attn.cross_attention_dim) for name, attn in chosen.items()})
        if copy_weights:
            own = {}
            for key in module.state_dict():
                layer, kind, _ = key.rsplit(".", 2)
                own[key] = (
                    chosen[layer].get_submodule(kind.removesuffix(f"_{cls.suffix}")).state_dict()["weight"]
                )
            module.load_state_dict(own)
        return module

    def forward(
        self, tokens: Tensor, layers: Sequence[str] | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Tokens [rows, n, width] to {layer: (keys, values)}, each [rows, n, channels]; None: all layers."""
        result: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.layers if layers is None else layers:
            pair = self.get_submodule(name)
            to_k, to_v = pair.get_submodule(f"to_k_{self.suffix}"), pair.get_submodule(f"to_v_{self.suffix}")
            result[name] = (to_k(tokens), to_v(tokens))
        return result


def check_geometry(
    projections: KeyValueAttention, unet: nn.Module, name: str, layers: Sequence[str] | None = None
) -> None:
    """Refuse projections of another base.

    Args:
        layers: the cross-attention layers of ``unet`` that the method touches; None: all of them.

    Raises:
        CheckpointError: layers or widths differ; the first three of a kind are named.
    """
    found = cross_layers(unet)
    wanted = found if layers is None else layers
    base = {layer: [found[layer].inner_dim, found[layer].cross_attention_dim] for layer in wanted}
    own = {layer: list(size) for layer, size in projections.config["geometry"].items()}
    missing = [layer for layer in base if layer not in own]
    extra = [layer for layer in own if layer not in base]
    other = [f"{n} {own[n]} instead of {size}" for n, size in base.items() if n in own and own[n] != size]
    if missing or extra or other:
        raise CheckpointError.from_keys(f"this {name} and {type(unet).__name__}", missing, extra, other)
