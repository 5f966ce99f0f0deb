"""Protocol files: what is measured, on whom, with which prompts, seeds and sizes.

A protocol is a small JSON file; the people come from a committed split file, so that two runs of one protocol
measure the same people, references and seeds, on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from idpersona.errors import BadInput
from idpersona.eval.statistics import Interval, bootstrap

_HERE = Path(__file__).resolve().parent
_Positive = Annotated[int, Field(ge=1)]
_Scale = Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PosePlan(_Frozen):
    """How keypoints are moved before they are asked for; each draw is uniform."""

    photos: _Positive = 64
    shift: float = Field(default=0.12, ge=0, le=0.5)
    """Largest shift to either side, as a part of the picture."""
    smallest: float = Field(default=0.75, gt=0)
    largest: float = Field(default=1.2, gt=0)
    """Bounds of the face's size relative to the usual framing."""
    roll: float = Field(default=20.0, ge=0, le=180)
    """Largest turn in the picture plane, degrees."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest:g} is above largest {self.largest:g}")
        return self


class PromptPlan(_Frozen):
    """Attribute -> (prompt that asks for it, prompt that asks against it)."""

    seeds: _Positive = 200
    """Seeds per attribute; each is drawn twice, for and against."""
    attributes: dict[str, tuple[str, str]] = Field(min_length=1)
    with_identity: tuple[str, ...] = ()
    """Attributes that are measured with an identity attached, too."""
    identity_seeds: _Positive = 100
    real_photos: _Positive = 1000
    """Held-out photos on which the judge's own rate is measured."""


class Protocol(_Frozen):
    """Everything that fixes a measurement except the model under test."""

    name: str
    split: str
    """Split file: a path, or one relative to the package (``training/data/split.json``)."""
    part: str = "validation"
    people: int = Field(default=128, ge=2)
    min_photos: int = Field(default=3, ge=2)
    """Photos a person needs: one reference and at least one other."""
    max_others: _Positive = 16
    seed: int = Field(default=0, ge=0, lt=2**31)
    prompt: str = "a photo of a person"
    negative_prompt: str | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    size: int = Field(default=128, ge=32, multiple_of=8)
    """Width and height of the pictures, pixels."""
    scales: tuple[_Scale, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.2)
    pictures_per_person: _Positive = 1
    gallery: int = Field(default=32, ge=2)
    galleries: _Positive = 100
    bootstrap_samples: _Positive = 2000
    prompts: PromptPlan
    pose: PosePlan = PosePlan()
    reconstruction_photos: _Positive = 512

    @classmethod
    def load(cls, name: str | Path = "standard") -> Protocol:
        """Read the shipped ``NAME.protocol.json`` or the file at a path; BadInput names the first wrong
        field.
        """
        path = _HERE / f"{name}.protocol.json"
        if not path.is_file():
            path = Path(name)
        if not path.is_file():
            known = ", ".join(sorted(p.name.split(".")[0] for p in _HERE.glob("*.protocol.json")))
            raise BadInput(f"no protocol file {name}; known protocols: {known}")
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise BadInput(f"protocol {path}: {_first(error)}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"protocol {path} cannot be read: {error}") from error

    def changed(self, **values: Any) -> Protocol:
        """This protocol with some fields replaced; BadInput when a value does not fit its field.

        The name says which fields were replaced, so that a result cannot pass for the unchanged protocol's.
        """
        if not values:
            return self
        marked = f"{self.name}+{'+'.join(sorted(values))}"
        try:
            return Protocol.model_validate(self.model_dump() | values | {"name": marked})
        except ValidationError as error:
            raise BadInput(f"protocol {self.name}: {_first(error)}") from error

    def quick(self) -> Protocol:
        """The same measurement, small enough for a CPU and a minute; its numbers support no claim."""
        return self.model_copy(
            update={
                "name": f"{self.name}-quick",
                "people": min(8, self.people),
                "max_others": 3,
                "steps": min(6, self.steps),
                "scales": (0.0, 1.0),
                "gallery": min(4, self.gallery),
                "galleries": 20,
                "bootstrap_samples": 200,
                "prompts": self.prompts.model_copy(
                    update={"seeds": 4, "identity_seeds": 4, "real_photos": 40}
                ),
                "pose": self.pose.model_copy(update={"photos": 8}),
                "reconstruction_photos": 16,
            }
        )

    def split_path(self) -> Path:
        """Where the split file lies; BadInput when it is nowhere."""
        for place in (Path(self.split), _HERE.parent / self.split):
            if place.is_file():
                return place
        raise BadInput(f"split file {self.split} not found, neither there nor in {_HERE.parent}")

    def split_sha256(self) -> str:
        return hashlib.sha256(self.split_path().read_bytes()).hexdigest()

    def record(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a report says of its settings: the whole protocol, the hash of the split, and ``more``."""
        return {"protocol": self.model_dump(), "split_sha256": self.split_sha256(), **(more or {})}

    def interval(self, values: Sequence[float] | np.ndarray) -> Interval:
        """Mean of one value per person with its interval, as :func:`~idpersona.eval.statistics.bootstrap`."""
        return bootstrap(values, samples=self.bootstrap_samples, seed=self.seed)

    def split_people(self) -> dict[str, list[str]]:
        """Identity -> photo files of the split's part, sorted by identity."""
        try:
            parts = json.loads(self.split_path().read_text(encoding="utf-8"))
            return {str(name): list(files) for name, files in sorted(parts[self.part].items())}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise BadInput(f"split file {self.split} has no part '{self.part}' of people: {error}") from error

    def candidates(self) -> list[tuple[str, str, list[str]]]:
        """(identity, reference file, other files) of all people with enough photos, in the protocol's order.

        The order and the choice of the reference come from ``seed`` and the names alone, so that a smaller
        protocol measures the first people of a larger one.
        """
        drawn = []
        for name, files in self.split_people().items():
            if len(files) < self.min_photos:
                continue
            rng = np.random.default_rng(_digest(f"{self.seed}/{name}"))
            order = [sorted(files)[i] for i in rng.permutation(len(files))]
            drawn.append((_digest(f"order/{self.seed}/{name}"), name, order))
        drawn.sort()
        return [(name, order[0], order[1 : 1 + self.max_others]) for _, name, order in drawn]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'file'}: {first['msg']}"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
