"""What every adapter is: trained parts, the encoders it reads with, a scope that puts it into a pipeline."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from idpersona.adapters import METHODS, Subject
from idpersona.adapters.checkpoint import read_json
from idpersona.errors import BadInput, CheckpointError, OutputError
from idpersona.identity import Identity
from idpersona.seams.cross import cross_layers
from idpersona.seams.scale import check_window

FORMAT_VERSION = 1
_KINDS = {float: "a number", bool: "true or false", str: "a text"}
People = Identity | Sequence[Identity]


class Adapter:
    """Base of all adapters.

    A saved adapter is a folder with ``adapter.json`` (method, version, parts, configuration) and one
    sub-folder per trained part, each a diffusers component in safetensors.
    """

    name: ClassVar[str]
    """Registry name of the method."""

    options: ClassVar[Mapping[str, type]] = {}
    """What ``attach`` takes beside what all adapters have: name -> ``float``, ``bool`` or ``str``."""

    default_scale: ClassVar[float] = 1.0
    """Strength where none is given."""

    config_class: ClassVar[type[Any] | None] = None
    """Class of ``config``, with ``encoders``, ``to_dict`` and ``from_dict``; None without a configuration."""

    config: Any
    """What the tensors do not say."""

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
        """Trained parts by the name of their sub-folder."""
        raise NotImplementedError

    def attach(
        self,
        pipe: Any,
        identity: People | Mapping[Identity, Any] | None = None,
        *,
        scale: float | Mapping[str, float] = 1.0,
        pose: Any = None,
        mask: Any = None,
        start: float = 0.0,
        end: float = 1.0,
        **options: Any,
    ) -> contextlib.AbstractContextManager[None]:
        """A scope inside which ``pipe``, a stock diffusers pipeline, draws ``identity``.

        Args:
            pipe: the pipeline; on leaving the scope, also by an exception, it is what it was before.
            identity: one for all prompts, or one per prompt of the list given to the pipeline. Several people
                in every picture: {identity: region}, a region being a box (x, y, width, height) in pixels of
                the canvas or a mask; where regions overlap, a pixel goes to the nearer one.
            scale: strength, one number for all or by name; 0 leaves the pipeline untouched.
            pose: where the face goes; None takes the identity's own keypoints, fitted to the canvas.
            mask: region of the canvas outside of which nothing is added, [H, W] in 0..1 or a picture.
            start, end: the part of the steps in which the adapter acts, as fractions.

        Raises:
            BadInput: an argument is out of its range, or the identity lacks what the adapter needs.
            SeamError: the pipeline cannot take the adapter.
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

        ``options`` go to :func:`idpersona.read_identity`.
        """
        from idpersona import read_identity

        return read_identity(photos, encoder=self.encoders, **options)

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
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as place:
                new, old = Path(place, "new"), Path(place, "old")
                old.mkdir()
                new.mkdir()
                for name, part in self.parts.items():
                    part.save_pretrained(new / name, safe_serialization=True)  # type: ignore[operator]
                (new / "adapter.json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
                # All is on the disk now. The head goes first and comes last, so that a mixture of two
                # adapters is never taken for one.
                (target / "adapter.json").unlink(missing_ok=True)
                for name in self.parts:
                    if (target / name).exists():
                        (target / name).rename(old / name)
                    (new / name).rename(target / name)
                (new / "adapter.json").rename(target / "adapter.json")
        except OSError as error:
            raise OutputError(f"cannot write the adapter to {target}: {error}") from error
        return target

    @classmethod
    def published_options(cls, unet: nn.Module) -> dict[str, Any]:
        """What ``from_pretrained`` has to know of a base to read a published layout."""
        return {"layers": list(cross_layers(unet))}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """Load an adapter from a folder; CheckpointError names what does not fit."""
        raise NotImplementedError


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


def as_people(
    identity: People | None, name: str, kind: str | None = None, encoders: Sequence[str] = ()
) -> list[Identity]:
    """One or more identities as a list.

    Raises:
        BadInput: none is given, something else than identities, or one of another ``kind``.
        IdentityFileError: one lacks the feature of one of ``encoders``.
    """
    people = [identity] if isinstance(identity, Identity) else list(identity or ())
    if not people:
        raise BadInput(f"{name} needs an identity: adapter.attach(pipe, adapter.read('me.jpg'))")
    for person in people:
        if not isinstance(person, Identity):
            raise BadInput(
                f"{name} needs identities, got {type(person).__name__}: read photos with adapter.read"
            )
        if kind is not None and person.kind != kind:
            raise BadInput(f"{name} keeps {kind}s: it cannot draw an identity of kind '{person.kind}'")
        person.require(encoders, needed_by=name)
    return people


def feature_rows(
    person: Identity, encoder: str, dim: int, name: str, *, normalised: bool | None = None
) -> np.ndarray:
    """The feature float32 [n, dim] of ``person`` that adapter ``name`` needs.

    Raises:
        IdentityFileError: there is no feature of ``encoder``.
        BadInput: it has another length, or is normalised where it must not be, or the other way round.
    """
    feature = person.feature(encoder, needed_by=name)
    if feature.dim != dim:
        raise BadInput(f"feature '{encoder}' has length {feature.dim}, this {name} takes {dim}")
    if normalised is not None and feature.normalised != normalised:
        wanted = "unit length" if normalised else "the encoder's own length"
        raise BadInput(f"{name} needs vectors of {wanted} from '{encoder}': read again")
    return feature.values
