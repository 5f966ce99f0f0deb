"""What every adapter is: trained parts, the encoders it reads with, a scope that puts it into a pipeline."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from idpersona.adapters import METHODS, Subject
from idpersona.adapters.people import People
from idpersona.adapters.placing import Placed, place_people
from idpersona.adapters.saving import Exported, check_folder, whole_folder
from idpersona.checkpoint import load_component, read_json
from idpersona.errors import BadInput, CheckpointError
from idpersona.identity import Identity
from idpersona.seams.cross import cross_layers
from idpersona.seams.scale import check_scale, check_window, matches
from idpersona.seams.scope import Seams, attach_scope, denoiser

FORMAT_VERSION = 1
_KINDS = {float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What ``attach`` was asked, checked and sorted out.

    Attributes:
        placed: who is where.
        scales: strength of each part.
        layers: strength by layer pattern, in the place of the first part's.
        pose: as given.
        start, end: the window of steps.
        options: the method's own.
    """

    pipe: Any
    placed: Placed
    scales: Mapping[str, float]
    layers: Mapping[str, float]
    pose: Any
    start: float
    end: float
    options: Mapping[str, Any]


class Adapter:
    """Base of all adapters.

    A saved adapter is a folder with ``adapter.json`` (method, version, parts, configuration) and one
    sub-folder per trained part, each a diffusers component in safetensors.
    """

    name: ClassVar[str]
    """Registry name of the method."""

    options: ClassVar[Mapping[str, type]] = {}
    """What ``attach`` takes beside what all adapters have: name -> ``float``, ``bool`` or ``str``."""

    drawing_options: ClassVar[tuple[str, ...]] = ()
    """Options that make somebody else of a person: an edit inverts the photo without them, and draws with."""

    default_scale: ClassVar[float] = 1.0
    """Strength where none is given."""

    config_class: ClassVar[type[Any] | None] = None
    """Class of ``config``, with ``encoders``, ``to_dict`` and ``from_dict``; None without a configuration."""

    config: Any
    """What the tensors do not say."""

    components: ClassVar[Mapping[str, type[Any]]] = {}
    """Class of each trained part by its name, that of the constructor's argument and of the sub-folder."""

    optional: ClassVar[tuple[str, ...]] = ()
    """Parts that may be None."""

    scaled: ClassVar[tuple[str, ...]] = ("identity",)
    """Parts that ``scale`` may name; one number is meant for them all."""

    draws: ClassVar[str | None] = "face"
    """Kind of the identities that ``attach`` takes; None takes any."""

    holds_pose: ClassVar[bool] = False
    """``attach`` takes ``pose``."""

    @property
    def subject(self) -> Subject:
        """What it reads an identity of, where nothing else is asked for: a face or an object."""
        return METHODS[self.name].subject

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders whose features an identity must hold for this adapter."""
        return self.config.encoders

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Trained parts by name, those that are there."""
        parts = {name: getattr(self, name) for name in self.components}
        return {name: part for name, part in parts.items() if part is not None}

    @contextlib.contextmanager
    def attach(
        self,
        pipe: Any,
        identity: People | Mapping[Identity, Any] | None = None,
        *,
        scale: float | Mapping[str, float] | None = None,
        pose: Any = None,
        mask: Any = None,
        start: float = 0.0,
        end: float = 1.0,
        **options: Any,
    ) -> Iterator[None]:
        """A scope inside which ``pipe``, a stock diffusers pipeline, draws ``identity``.

        Args:
            pipe: the pipeline; on leaving the scope, also by an exception, it is what it was before.
            identity: one for all prompts, or one per prompt of the list given to the pipeline. Several people
                in every picture: {identity: region}, a region being a box (x, y, width, height) in pixels of
                the canvas or a mask; where regions overlap, a pixel goes to the nearer one.
            scale: strength, one number, or numbers by the name of a part (``scaled``) or by layer pattern as
                ``up_blocks.0``; 0 leaves the pipeline untouched, None takes ``default_scale``.
            pose: of adapters that hold one (``holds_pose``), where the face goes; None takes the identity's
                own keypoints, fitted to the canvas.
            mask: region of the canvas outside of which nothing is added, [H, W] in 0..1 or a picture.
            start, end: the part of the steps in which the adapter acts, as fractions.
            options: the method's own, see its class.

        Raises:
            BadInput: an argument is out of its range, or the identity lacks what the adapter needs.
            CheckpointError: the trained parts do not fit the pipeline's model.
            SeamError: the pipeline cannot take the adapter.
        """
        self.check_options({"start": start, "end": end, **options})
        if pose is not None and not self.holds_pose:
            raise BadInput(f"{self.name} holds no pose: leave pose out, or attach instantid beside it")
        model = denoiser(pipe)
        named = self.strengths(self.default_scale if scale is None else scale)
        asked = Asked(
            pipe=pipe,
            scales={part: check_scale(named.pop(part, 1.0), f"scale {part}") for part in self.scaled},
            layers=self._layer_scales(named, model),
            placed=place_people(identity, self.name, mask, pipe, self.draws),
            pose=pose,
            start=start,
            end=end,
            options=options,
        )
        self.check_fits(model)
        self.to(pipe._execution_device)
        with attach_scope(pipe, **vars(self.seams(asked))):
            yield

    def strengths(self, scale: float | Mapping[str, float]) -> dict[str, float]:
        """``scale`` by the names of parts and by layer patterns."""
        return dict(scale) if isinstance(scale, Mapping) else dict.fromkeys(self.scaled, scale)

    def _layer_scales(self, named: Mapping[str, float], model: nn.Module) -> Mapping[str, float]:
        """``named`` itself; BadInput where a name is neither a part's nor that of layers."""
        layers = list(cross_layers(model))
        for name in named:
            if not matches(layers, name):
                raise BadInput(
                    f"scale of {self.name} names its parts ({', '.join(self.scaled)}) or layers as "
                    f"{layers[0]}; '{name}' is neither"
                )
        return named

    def seams(self, asked: Asked) -> Seams:
        """What goes into the pipeline; the adapter fits it and is on its device.

        Raises:
            BadInput, IdPersonaError: as for :meth:`attach`.
        """
        raise NotImplementedError

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse what ``attach`` would refuse of ``options`` (among them perhaps ``start`` and ``end``).

        Raises:
            BadInput: an unknown name, a value of another type, or windows that are none.
        """
        known = {"start": float, "end": float, **cls.options}
        for name, value in options.items():
            if name not in known:
                raise BadInput(f"{cls.name} knows no option {name}; it has {', '.join(known)}")
            wanted = known[name]
            given = float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)
            if given is not wanted:
                raise BadInput(f"{name} of {cls.name} is {_KINDS[wanted]}, got {value!r}")
        check_window(options.get("start", 0.0), options.get("end", 1.0))

    def check_fits(self, unet: nn.Module) -> None:
        """Raises CheckpointError, naming layers, unless the trained parts fit ``unet``."""
        raise NotImplementedError

    def pipeline(self, pipe: Any, identity: People | None = None, **options: Any) -> Callable[..., Any]:
        """``pipe`` with this adapter attached for the length of every call; arguments as for ``attach``.

        ``draw = adapter.pipeline(pipe, me, scale=0.8); draw("a photo of a man").images``. Between the calls
        the pipeline is what it was.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.attach(pipe, identity, **options):
                return pipe(*args, **kwargs)

        return call

    def read(self, photos: Any, **options: Any) -> Identity:
        """Read an identity from one or more photos with the encoders this adapter needs.

        ``options`` go to :func:`idpersona.read_identity`; with ``encoder`` others of these names can read.
        """
        from idpersona import read_identity

        given: dict[str, Any] = {"encoder": self.encoders, **options}
        return read_identity(photos, **given)

    def canvas(self, photo: tuple[int, int]) -> tuple[int, int] | None:
        """Width and height in pixels for a picture in the pose of a photo of that width and height.

        None where these weights have no rule of their own and the base's size is right.
        """
        return None

    @property
    def device(self) -> torch.device:
        """Where the trained parts are; the CPU if there are none."""
        weights = (weight for part in self.parts.values() for weight in part.parameters())
        return next((weight.device for weight in weights), torch.device("cpu"))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the trained parts; returns the adapter itself."""
        for part in self.parts.values():
            # diffusers' own ``to`` warns about layers it would keep in float32; these parts have none.
            nn.Module.to(part, device=device, dtype=dtype)
        return self

    def config_dict(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return self.config.to_dict()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the adapter as a folder of safetensors; returns the folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        target = Path(folder)
        # The parts are listed, so that one of an older adapter in this folder is not taken for one of this.
        head = {
            "format_version": FORMAT_VERSION,
            "method": self.name,
            "parts": list(self.parts),
            "config": self.config_dict(),
        }
        with whole_folder(target, "adapter.json") as new:
            for name, part in self.parts.items():
                part.save_pretrained(new / name, safe_serialization=True)  # type: ignore[operator]
            (new / "adapter.json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
        return target

    def save_published(self, folder: str | os.PathLike[str], *, force: bool = False) -> Exported:
        """Write the layout that other tools read: the inverse of :meth:`from_published`.

        The tensors keep their dtype; :meth:`to` changes it before. It is a layout alone: sizes stay what they
        are. An adapter of mini, whose U-Net is its own, is of use on mini only, and tools that take the
        published sizes for granted cannot load it.

        Args:
            folder: may be absent or empty.
            force: replace an older adapter of the same layout; a folder that holds anything else is refused.

        Raises:
            BadInput: no layout of this method has been published, or it has no place for these sizes.
            OutputError: the folder cannot be written, or holds something and not ``force``.
        """
        head, target = self.published_name, check_folder(folder, force=force)
        with whole_folder(target, head, alone=True) as new:
            notes = self.write_published(new)
        read = self.config_class.from_dict(self.published_fields())  # type: ignore[union-attr]
        known = read.to_dict()
        fields = {name: value for name, value in self.config_dict().items() if value != known[name]}
        return Exported(target, fields, tuple(notes))

    @property
    def published_name(self) -> str:
        """Name of the file by which a folder of the published layout is known.

        Raises:
            BadInput: no layout of this method has been published.
        """
        if METHODS[self.name].weightless:
            raise BadInput(f"{self.name} has no weights: there is nothing to export")
        raise BadInput(
            f"no layout of {self.name} has been published: idpersona's own folder, as training writes it, is "
            "the only one"
        )

    def published_fields(self) -> dict[str, Any]:
        """What a reader of the published layout finds out about the configuration by itself."""
        raise NotImplementedError

    def write_published(self, folder: Path) -> Sequence[str]:
        """Write the published layout into ``folder``, which is new; returns :attr:`Exported.notes`.

        Raises:
            BadInput: the layout has no place for these sizes.
        """
        raise NotImplementedError

    @classmethod
    def published_options(cls, unet: nn.Module) -> dict[str, Any]:
        """What ``from_pretrained`` has to know of a base to read a published layout."""
        return {"layers": list(cross_layers(unet))}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """Load from our own layout (``adapter.json``) or, without it, from a published one.

        ``options`` are for :meth:`from_published`.

        Raises:
            CheckpointError: keys, shapes or configuration do not fit.
            BadInput: options for our own layout, which states its configuration itself.
        """
        folder = Path(folder)
        if not (folder / "adapter.json").is_file():
            return cls.from_published(folder, **options)
        if options:
            raise BadInput(f"{folder} states its own configuration: no {', '.join(options)} can be given")
        head = read_head(folder, cls.name)
        listed = head.get("parts") or [name for name in cls.components if (folder / name).is_dir()]
        parts = {
            name: load_component(kind, folder / name)
            for name, kind in cls.components.items()
            if name in listed or name not in cls.optional
        }
        make: Any = cls
        return make(**parts, config=cls.config_class.from_dict(head["config"]))  # type: ignore[union-attr]

    @classmethod
    def from_published(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Load a published checkpoint.

        Raises:
            CheckpointError: it does not fit, or no layout of this method has been published.
        """
        raise CheckpointError(f"{path} holds no adapter.json, and no other layout of {cls.name} is known")


def read_head(folder: str | os.PathLike[str], name: str = "") -> dict[str, Any]:
    """``adapter.json`` of a saved adapter: ``format_version``, ``method``, ``config``, perhaps ``parts``.

    Raises:
        CheckpointError: missing, damaged, of a newer version, or of another method than ``name``.
    """
    path = Path(folder) / "adapter.json"
    head = read_json(path)
    version = head.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise CheckpointError(f"{path} states no format_version")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this idpersona reads up to {FORMAT_VERSION}: update idpersona"
        )
    if not isinstance(head.get("method"), str) or not isinstance(head.get("config"), dict):
        raise CheckpointError(f"{path} states no method and config")
    if name and head["method"] != name:
        raise CheckpointError(f"{folder} is an adapter of method '{head['method']}', not {name}")
    parts = head.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise CheckpointError(f"{path}: parts must be a list of names")
    return head
