"""InstantID: a face into a diffusion model by identity cross-attention and IdentityNet.

Paper: InstantID: Zero-shot Identity-Preserving Generation in Seconds (arXiv:2401.07519).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor, nn

from idpersona.adapters.base import Adapter, Asked
from idpersona.adapters.config import check_sizes
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.convert import (
    DIM_HEAD,
    FILE,
    Published,
    read_published,
    write_published,
)
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.adapters.instantid.pose import PoseDrawer
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.people import People, as_people, feature_rows
from idpersona.adapters.placing import Placed
from idpersona.errors import BadInput, CheckpointError
from idpersona.identity import Identity
from idpersona.keypoints import resize_sizes
from idpersona.seams.call import Call
from idpersona.seams.residual import ControlNetBranch
from idpersona.seams.scale import check_scale, check_window
from idpersona.seams.scope import Seams
from idpersona.seams.tokens import TokenBranch

SD15_CONTEXT = 768
"""Width of the text context of the SD1.5 family."""


class InstantID(Adapter):
    """Identity tokens beside the text in every cross-attention layer, and IdentityNet for the face's place.

    Args:
        projector: face vector to identity tokens.
        cross_attention: keys and values of the tokens for each layer.
        identitynet: a ControlNet that takes the tokens instead of the text; None if it is not at hand, and
            then the adapter works with ``scale={"net": 0}`` only.
        config: what the tensors do not say.

    ``attach``: ``scale`` may name ``identity`` (cross-attention) and ``net`` (IdentityNet); ``pose`` is as
    for :class:`~idpersona.adapters.instantid.pose.PoseDrawer`.

    Options:
        net_start, net_end: window of IdentityNet, where it differs from ``start`` and ``end``.
        guess_mode: IdentityNet acts on the conditional rows only.
        unconditional_noise: see :meth:`unconditional_tokens`.
    """

    name: ClassVar[str] = "instantid"
    config_class = InstantIDConfig
    components: ClassVar[Mapping[str, type[Any]]] = {
        "projector": InstantIDProjector,
        "cross_attention": IdentityCrossAttention,
        "identitynet": ControlNetModel,
    }
    optional: ClassVar[tuple[str, ...]] = ("identitynet",)
    scaled: ClassVar[tuple[str, ...]] = ("identity", "net")
    holds_pose: ClassVar[bool] = True
    options: ClassVar[Mapping[str, type]] = {
        "net_start": float,
        "net_end": float,
        "guess_mode": bool,
        "unconditional_noise": float,
    }

    def __init__(
        self,
        projector: InstantIDProjector,
        cross_attention: IdentityCrossAttention,
        identitynet: ControlNetModel | None = None,
        config: InstantIDConfig | None = None,
    ):
        self.projector, self.cross_attention, self.identitynet = projector, cross_attention, identitynet
        self.config = config or InstantIDConfig()
        check_sizes(projector, self.config.projector_sizes(), "InstantID's projector")

    def canvas(self, photo: tuple[int, int]) -> tuple[int, int] | None:
        config = self.config
        if config.framing is not None:  # trained on one framing, hence on one size
            return None
        return resize_sizes(
            photo,
            max_side=config.resize_max_side,
            min_side=config.resize_min_side,
            base=config.resize_multiple,
        )[1]

    @classmethod
    def from_published(
        cls,
        path: str | os.PathLike[str],
        *,
        layers: Iterable[str] | None = None,
        dim_head: int | None = None,
        identitynet: ControlNetModel | None = None,
        **fields: Any,
    ) -> Self:
        """Load a published checkpoint; its sizes are read from its tensors.

        ``layers`` and ``dim_head`` as for :func:`~idpersona.adapters.instantid.convert.read_published`;
        ``fields`` of :class:`InstantIDConfig` that tensors do not show.

        Raises:
            CheckpointError: a part is missing, or keys or shapes do not fit.
        """
        found = read_published(path, layers=layers, dim_head=dim_head)
        if found.projector is None or found.cross_attention is None:
            lacking = "image_proj" if found.projector is None else "ip_adapter"
            raise CheckpointError(f"{path} holds only a part of InstantID: {lacking} is missing")
        config = InstantIDConfig.from_dict({**_told_by(found.projector), **fields})
        return cls(found.projector, found.cross_attention, identitynet or found.identitynet, config)

    def published(self) -> Published:
        """The parts, ready for :func:`~idpersona.adapters.instantid.convert.write_published`."""
        return Published(self.projector, self.cross_attention, self.identitynet)

    @property
    def published_name(self) -> str:
        return FILE

    def published_fields(self) -> dict[str, Any]:
        return _told_by(self.projector)

    def write_published(self, folder: Path) -> Sequence[str]:
        write_published(self.published(), folder)
        notes = []
        if self.config.dim_head != DIM_HEAD:
            notes.append(
                f"the projector's heads are {self.config.dim_head} wide: idpersona reads that in {FILE}, "
                f"other tools take {DIM_HEAD} for granted and make other tokens"
            )
        if self.identitynet is None:
            notes.append(
                "this adapter has no IdentityNet: tools that want one need that of another checkpoint"
            )
        return notes

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        super().check_options(options)
        start = options.get("net_start", options.get("start", 0.0))
        check_window(start, options.get("net_end", options.get("end", 1.0)), "net_start and net_end")

    def check_fits(self, unet: nn.Module) -> None:
        """Raises CheckpointError unless the cross-attention has exactly the layers and widths of ``unet``."""
        check_geometry(self.cross_attention, unet, "InstantID")

    @torch.no_grad()
    def tokens(self, people: People) -> Tensor:
        """Identity tokens [people, num_tokens, output_dim].

        Raises:
            IdentityFileError: an identity lacks the encoder's feature.
            BadInput: the feature has another length, or is normalised where it must not be.
        """
        rows = []
        for person in as_people(people, self.name, "face", self.encoders):
            config = self.config
            values = feature_rows(
                person, config.encoder, config.embedding_dim, self.name, normalised=config.normalised
            )
            rows.append(self.projector(torch.tensor(values, device=self.device)[None]))
        return torch.cat(rows)

    @torch.no_grad()
    def unconditional_tokens(self, people: Sequence[Identity] = (), noise: float = 0.0) -> Tensor:
        """What unconditional rows see: the projector applied to zeros, [1, num_tokens, output_dim].

        To as many as ``people`` have vectors each (of several photos that are kept apart), as published.
        With ``noise`` to that many times uniform noise in 0..1 instead, whose seed is the sum of the people's
        features, so that the same people give the same picture. The ComfyUI port uses 0.35: guidance then
        leads away from a vague face instead of nobody, which burns less.
        """
        config = self.config
        counts = {len(person.feature(config.encoder).values) for person in people} or {1}
        if len(counts) > 1:
            raise BadInput(
                "people drawn together must each have the same number of photos (or merge='mean'), got "
                f"{', '.join(map(str, sorted(counts)))}"
            )
        vector = torch.zeros(1, *counts, config.embedding_dim)
        if noise:
            total = sum(float(person.feature(config.encoder).values.sum()) for person in people)
            seed = zlib.crc32(struct.pack("<d", total))
            generator = torch.Generator().manual_seed(seed)
            vector = noise * torch.rand(vector.shape, generator=generator)
        return self.projector(vector.to(self.device))

    def seams(self, asked: Asked) -> Seams:
        placed, options = asked.placed, asked.options
        noise = check_scale(options.get("unconditional_noise", 0.0), "unconditional_noise")
        unconditional = self.unconditional_tokens(placed.people, noise)
        tokens = [self.tokens(place.people) for place in placed.places]
        cross = [
            TokenBranch(
                self.cross_attention,
                theirs,
                unconditional=unconditional,
                scale=asked.scales["identity"],
                scales=asked.layers,
                mask=place.mask,
                start=asked.start,
                end=asked.end,
            )
            for place, theirs in zip(placed.places, tokens, strict=True)
        ]
        if not asked.scales["net"]:
            return Seams(cross=cross)
        if self.identitynet is None:
            raise BadInput(
                f"this {self.name} has no IdentityNet: attach it (from Python) with scale={{'net': 0}}"
            )
        net = ControlNetBranch(
            self.identitynet,
            self._picture(asked.pose, placed),
            tokens=torch.cat(tokens),
            unconditional=unconditional,
            scale=asked.scales["net"],
            mask=placed.masks if placed.regions else placed.places[0].mask,
            start=options.get("net_start", asked.start),
            end=options.get("net_end", asked.end),
            guess_mode=options.get("guess_mode", False),
            together=placed.regions is not None,
        )
        return Seams(cross=cross, residual=[net])

    def _picture(self, pose: Any, placed: Placed) -> Callable[[Call], Tensor]:
        draw = PoseDrawer(pose, placed.people, self.config, self.read, placed.boxes)
        return lambda call: draw(placed.canvas(call))


def _told_by(projector: InstantIDProjector) -> dict[str, Any]:
    """Fields of the configuration that follow from a published projector."""
    sizes: dict[str, Any] = {key: projector.config[key] for key in InstantIDConfig().projector_sizes()}
    if sizes["output_dim"] == SD15_CONTEXT:  # half the pixels of SDXL each way
        sizes |= {"resize_max_side": 640, "resize_min_side": 512}
    return sizes
