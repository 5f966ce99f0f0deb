"""W+ adapter: a face's StyleGAN code beside the text, and its attributes as sliders.

Paper: When StyleGAN Meets Stable Diffusion: a W+ Adapter for Personalized Image Generation
(arXiv:2311.17461).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from idpersona.adapters.base import Adapter, Asked
from idpersona.adapters.config import check_sizes
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.people import People, as_people, feature_rows
from idpersona.adapters.wplus.branch import ResidualBranch
from idpersona.adapters.wplus.config import WPlusConfig
from idpersona.adapters.wplus.convert import FILES, published_file, read_published, write_published
from idpersona.adapters.wplus.directions import (
    Direction,
    WPlusDirections,
    edit_identity,
    parse_edits,
    read_directions,
)
from idpersona.adapters.wplus.modules import WPlusCrossAttention, WPlusMapper
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.seams.scale import check_window
from idpersona.seams.scope import Seams


class WPlus(Adapter):
    """See the module's docstring.

    Args:
        mapper: W+ codes to tokens.
        cross_attention: residual cross-attention for each layer.
        config: what the tensors do not say.
        directions: editing directions that belong to the W+ space; None if there are none.

    Options of ``attach``:
        delay: share of the steps before the adapter acts, where ``start`` is 0.
        edit: ``smile=2,age=-1``, attributes to be moved and how far.
        directions: folder of further direction files for ``edit``.
    """

    name: ClassVar[str] = "wplus"
    drawing_options = ("edit", "directions")
    config_class = WPlusConfig
    components: ClassVar[Mapping[str, type[Any]]] = {
        "mapper": WPlusMapper,
        "cross_attention": WPlusCrossAttention,
        "directions": WPlusDirections,
    }
    optional: ClassVar[tuple[str, ...]] = ("directions",)
    options: ClassVar[Mapping[str, type]] = {"delay": float, "edit": str, "directions": str}

    def __init__(
        self,
        mapper: WPlusMapper,
        cross_attention: WPlusCrossAttention,
        config: WPlusConfig | None = None,
        directions: WPlusDirections | None = None,
    ):
        self.mapper, self.cross_attention = mapper, cross_attention
        self.own_directions = directions
        self.config = config or WPlusConfig()
        wrong = ["rows"] if sum(self.config.groups) != self.config.rows else []
        check_sizes(mapper, self.config.mapper_sizes(), "the W+ mapper", wrong=wrong)

    @property
    def parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"mapper": self.mapper, "cross_attention": self.cross_attention}
        return parts if self.own_directions is None else parts | {"directions": self.own_directions}

    @classmethod
    def from_published(
        cls, path: str | os.PathLike[str], *, layers: Iterable[str] | None = None, **fields: Any
    ) -> Self:
        """Load ``wplus_adapter.bin`` or a folder that holds it; sizes are read from its tensors.

        ``layers`` are the base's cross-attention layers, ``fields`` those of :class:`WPlusConfig` that
        tensors do not show.

        Raises:
            CheckpointError: a part is missing, or keys or shapes do not fit.
        """
        dim = {"dim": fields["dim"]} if "dim" in fields else {}
        file = published_file(path)
        mapper, attention = read_published(file, layers=layers, **dim)
        values = _told_by(mapper)
        if "stage1" in file.name:  # trained on faces alone, which need no delay
            values["delay"] = 0.0
        return cls(mapper, attention, WPlusConfig.from_dict({**values, **fields}))

    @property
    def published_name(self) -> str:
        return FILES[0]

    def published_fields(self) -> dict[str, Any]:
        return _told_by(self.mapper)

    def write_published(self, folder: Path) -> Sequence[str]:
        write_published(self.mapper, self.cross_attention, folder / self.published_name)
        if self.own_directions is None:
            return ()
        return ("the directions of the sliders stay behind: this layout has no place for them",)

    def check_fits(self, unet: nn.Module) -> None:
        check_geometry(self.cross_attention, unet, "W+ adapter")

    @torch.no_grad()
    def tokens(self, people: People) -> Tensor:
        """Identity tokens [people, len(groups), output_dim]; codes of several photos are averaged.

        Raises:
            IdentityFileError: an identity lacks the feature of the encoder.
            BadInput: its codes are of another W+ size.
        """
        codes = []
        for person in as_people(people, self.name, "face", self.encoders):
            values = feature_rows(person, self.config.encoder, self.config.dim, self.name)
            if len(values) % self.config.rows:
                raise BadInput(
                    f"feature '{self.config.encoder}' has {len(values)} rows, {self.name} takes "
                    f"{self.config.rows} for each photo"
                )
            codes.append(values.reshape(-1, self.config.rows, self.config.dim).mean(axis=0))
        return self.mapper(torch.stack([torch.tensor(code) for code in codes]).to(self.device))

    @torch.no_grad()
    def unconditional_tokens(self) -> Tensor:
        """What unconditional rows see: the mapper applied to zeros, [1, len(groups), output_dim]."""
        return self.mapper(torch.zeros(1, self.config.rows, self.config.dim, device=self.device))

    def directions(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Direction]:
        """Editing directions by name: the adapter's own, and those of the files in ``folder``.

        Raises:
            BadInput: a file is of another W+ size, or there is none.
        """
        own = {} if self.own_directions is None else self.own_directions.directions()
        return own if folder is None else own | read_directions(folder, self.config.rows, self.config.dim)

    def edit(
        self, identity: Identity, directions: str | os.PathLike[str] | None = None, **amounts: float
    ) -> Identity:
        """A copy of ``identity`` with its attributes moved: ``adapter.edit(me, smile=2)``.

        ``directions`` as for :meth:`directions`; an amount of 1 is what the direction's maker calls one step.

        Raises:
            UnknownName: no such direction; BadInput: of another W+ size.
        """
        return edit_identity(identity, self.config.encoder, amounts, self.directions(directions))

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        super().check_options(options)
        delay = options.get("delay", 0.0)
        check_window(options.get("start") or delay, options.get("end", 1.0), "delay and end")
        if "edit" in options:
            parse_edits(options["edit"])

    def seams(self, asked: Asked) -> Seams:
        options, cross = asked.options, []
        start = asked.start or options.get("delay", self.config.delay)
        if start >= asked.end:
            raise BadInput(
                f"this {self.name} waits for {start:g} of the steps, and end is {asked.end:g}: give delay=0"
            )
        amounts = parse_edits(options["edit"]) if "edit" in options else {}
        for place in asked.placed.places:
            people = place.people
            if amounts:
                people = [self.edit(person, options.get("directions"), **amounts) for person in people]
            cross.append(
                ResidualBranch(
                    self.cross_attention,
                    self.tokens(people),
                    unconditional=self.unconditional_tokens(),
                    scale=asked.scales["identity"],
                    scales=asked.layers,
                    mask=place.mask,
                    start=start,
                    end=asked.end,
                )
            )
        return Seams(cross=cross)


def _told_by(mapper: WPlusMapper) -> dict[str, Any]:
    """Fields of the configuration that follow from a published mapper; ``dim`` its tensors do not show."""
    groups = tuple(mapper.config["groups"])
    return {"rows": sum(groups), "groups": groups, "output_dim": mapper.config["output_dim"]}
