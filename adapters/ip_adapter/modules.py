"""Trained parts of the IP-Adapter family; the projections are diffusers' own classes.

Papers: IP-Adapter (arXiv:2308.06721). FaceID, FaceID-Plus and v2 were published without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    IPAdapterFullImageProjection,
    IPAdapterPlusImageProjection,
)
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idpersona.adapters.key_values import KeyValueAttention

KINDS: dict[str, type[Any]] = {
    "base": ImageProjection,
    "full": IPAdapterFullImageProjection,
    "plus": IPAdapterPlusImageProjection,
    "faceid": IPAdapterFaceIDImageProjection,
    "faceid-plus": IPAdapterFaceIDPlusImageProjection,
}
"""Kind of a checkpoint -> diffusers' projection."""
PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
"""Projections of an attention layer that FaceID changes -> the linear layers that they are."""


class IPAdapterProjector(ModelMixin, ConfigMixin):
    """What encoders saw to tokens [people, n, width].

    Args:
        kind: key of :data:`KINDS`.
        sizes: keyword arguments of that class.
    """

    @register_to_config
    def __init__(self, kind: str, sizes: Mapping[str, int]):
        super().__init__()
        self.projection = KINDS[kind](**sizes)

    def forward(
        self,
        image: Tensor | None = None,
        face: Tensor | None = None,
        *,
        shortcut: bool = False,
        shortcut_scale: float = 1.0,
    ) -> Tensor:
        """Tokens.

        Args:
            image: [people, dim] for ``base``; [people, n, dim] for ``full``, ``plus`` and ``faceid-plus``.
            face: unit vectors [people, dim] for ``faceid`` and ``faceid-plus``.
            shortcut, shortcut_scale: of ``faceid-plus`` (v2): the face's own tokens plus that many times what
                the resampler makes of them.
        """
        kind, projection = self.config["kind"], self.projection
        dtype = next(projection.parameters()).dtype
        if kind == "faceid":
            assert face is not None
            return projection(face.to(dtype))
        assert image is not None
        if kind != "faceid-plus":
            return projection(image.to(dtype))
        assert face is not None
        projection.clip_embeds = image.to(dtype)[:, None]
        projection.shortcut, projection.shortcut_scale = shortcut, shortcut_scale
        try:
            return projection(face.to(dtype))
        finally:
            projection.clip_embeds = None


class IPAdapterCrossAttention(KeyValueAttention):
    """Keys and values of the tokens for every cross-attention layer of a base."""

    suffix = "ip"


class LowRank(ModelMixin, ConfigMixin):
    """FaceID's low-rank changes of the attention projections, by layer.

    ``<layer>.<projection>.down.weight`` [rank, in] and ``up.weight`` [out, rank], projections being those of
    :data:`PROJECTIONS`. They are added by hooks: nothing is put into the base.

    Args:
        geometry: {layer: {projection: (in, out, rank)}}.
    """

    @register_to_config
    def __init__(self, geometry: Mapping[str, Mapping[str, Sequence[int]]]):
        super().__init__()
        for layer, projections in geometry.items():
            place: nn.Module = self
            for part in layer.split("."):
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            for name, (wide_in, wide_out, rank) in projections.items():
                pair = nn.Module()
                pair.add_module("down", nn.Linear(wide_in, rank, bias=False))
                pair.add_module("up", nn.Linear(rank, wide_out, bias=False))
                place.add_module(name, pair)

    @property
    def layers(self) -> list[str]:
        """Names of the layers."""
        return list(self.config["geometry"])

    def pair(self, layer: str, projection: str) -> tuple[nn.Module, nn.Module]:
        """(down, up) of one projection."""
        found = self.get_submodule(f"{layer}.{projection}")
        return found.get_submodule("down"), found.get_submodule("up")
