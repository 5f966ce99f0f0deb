"""The local registry of people: who may not be used, and who may.

One safetensors file on the user's own machine: a centroid per person and encoder, and JSON beside it. It
holds no photos and nothing that can run. A digest over all of it makes a damaged or edited file fail loudly
instead of guarding nobody; it is no signature: who can write the file can also write a new digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from idpersona.errors import BadInput, PeopleFileError, UnknownName
from idpersona.images import atomic_output
from idpersona.safety.thresholds import Threshold, distances, get_threshold

FORMAT_VERSION = 1
MAX_BYTES = 256 * 1024 * 1024
KEY = "idpersona_people"
Policy = Literal["allow", "deny"]
POLICIES: tuple[Policy, ...] = ("allow", "deny")


def people_path() -> Path:
    """Where the registry lies: ``IDPERSONA_PEOPLE``, else ``~/.config/idpersona/people.safetensors``."""
    named = os.environ.get("IDPERSONA_PEOPLE")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(named).expanduser() if named else config / "idpersona" / "people.safetensors"


@dataclass(frozen=True)
class Person:
    """One entry.

    Attributes:
        name: unique in the registry, printable, at most 100 characters.
        policy: ``deny`` refuses the person; ``allow`` lets the person through where others are refused.
        centroids: encoder name -> float32 ``[dim]``.
        photos: number of photos behind the centroids.
        contact: whom to ask, free text.
        added: ISO 8601 time.
        expires: last day (``YYYY-MM-DD``) on which the entry counts, or "" for ever.
    """

    name: str
    policy: Policy
    centroids: Mapping[str, np.ndarray]
    photos: int
    contact: str = ""
    added: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    expires: str = ""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("contact", self.contact), ("added", self.added)):
            if not isinstance(text, str) or len(text) > 100 or not text.isprintable():
                raise BadInput(f"a person's {what} must be printable text of at most 100 characters")
        if not self.name.strip():
            raise BadInput("a person needs a name")
        if self.policy not in POLICIES:
            raise BadInput(f"policy must be allow or deny, got {str(self.policy)[:40]!r}")
        if type(self.photos) is not int or self.photos < 1:
            raise BadInput(f"the number of photos must be 1 or more, got {str(self.photos)[:40]}")
        if self.expires:
            try:
                date.fromisoformat(self.expires)
            except (TypeError, ValueError) as error:
                raise BadInput(f"the expiry date must look like 2030-12-31, got {self.expires!r}") from error
        if not self.centroids:
            raise BadInput(f"person '{self.name}' has no descriptor")
        for encoder, values in self.centroids.items():
            if values.dtype != np.float32 or values.ndim != 1 or not np.isfinite(values).all():
                raise BadInput(f"person '{self.name}': the centroid of '{encoder}' is damaged")

    @property
    def expired(self) -> bool:
        """Whether the entry no longer counts."""
        return bool(self.expires) and date.fromisoformat(self.expires) < datetime.now(UTC).date()

    def describe(self) -> dict[str, Any]:
        """The entry without its numbers; ready for JSON."""
        return {
            "name": self.name,
            "policy": self.policy,
            "encoders": sorted(self.centroids),
            "photos": self.photos,
            "contact": self.contact,
            "added": self.added,
            "expires": self.expires,
        }


@dataclass(frozen=True)
class Match:
    """A person that a descriptor matches, and how closely."""

    person: Person
    encoder: str
    distance: float
    threshold: Threshold


@dataclass(frozen=True)
class People:
    """The registry as a frozen value.

    Attributes:
        entries: the people, names unique.
        others: what happens with references that match nobody: ``allow`` (default) or ``deny``.
    """

    entries: tuple[Person, ...] = ()
    others: Policy = "allow"

    def __post_init__(self) -> None:
        names = [person.name for person in self.entries]
        if len(set(names)) != len(names):
            raise BadInput("the people registry has two entries of one name")
        if self.others not in POLICIES:
            raise BadInput(f"policy must be allow or deny, got {str(self.others)[:40]!r}")

    @property
    def active(self) -> tuple[Person, ...]:
        """Entries that have not expired."""
        return tuple(person for person in self.entries if not person.expired)

    @property
    def guards(self) -> bool:
        """Whether anything has to be checked at all."""
        return self.others == "deny" or any(person.policy == "deny" for person in self.active)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders with which every active entry can be compared, the fewest that do."""
        return cover(self.active)

    def add(self, person: Person, *, force: bool = False) -> People:
        """A registry with ``person``; ``force`` replaces the entry of that name."""
        if not force and any(entry.name == person.name for entry in self.entries):
            raise BadInput(f"'{person.name}' is in the registry already: use --force to replace the entry")
        kept = tuple(entry for entry in self.entries if entry.name != person.name)
        return replace(self, entries=(*kept, person))

    def remove(self, name: str) -> People:
        """A registry without the entry ``name``."""
        if all(entry.name != name for entry in self.entries):
            raise UnknownName("person", name, [entry.name for entry in self.entries])
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name != name))

    def match(self, rows: np.ndarray, encoder: str) -> list[Match]:
        """Active entries that any of the descriptors ``[n, dim]`` matches, nearest first.

        Raises:
            UnknownName: the encoder was never calibrated.
            BadInput: the descriptors have another length than the centroids.
        """
        known = [person for person in self.active if encoder in person.centroids]
        if not known:
            return []
        threshold = get_threshold(encoder)
        centroids = np.stack([person.centroids[encoder] for person in known])
        if rows.ndim != 2 or rows.shape[1] != centroids.shape[1]:
            raise BadInput(
                f"descriptors of '{encoder}' must be [n, {centroids.shape[1]}], got {list(rows.shape)}"
            )
        nearest = distances(rows, centroids, threshold.measure).min(axis=0)
        found = [
            Match(person, encoder, float(distance), threshold)
            for person, distance in zip(known, nearest, strict=True)
            if distance <= threshold.distance
        ]
        return sorted(found, key=lambda match: match.distance)

    def save(self, path: Path) -> None:
        """Write the registry, whole or not at all, readable by its owner only; makes its folder."""
        from safetensors.numpy import save

        tensors, people = {}, []
        for index, person in enumerate(self.entries):
            people.append(person.describe())
            for encoder, values in person.centroids.items():
                tensors[f"{index}.{encoder}"] = np.ascontiguousarray(values)
        content = json.dumps({"version": FORMAT_VERSION, "others": self.others, "people": people})
        metadata = {KEY: content, "sha256": _digest(content, tensors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path, force=True) as part:
            part.touch(mode=0o600)
            part.write_bytes(save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> People:
        """Read and validate a registry file.

        Raises:
            PeopleFileError: missing, damaged, edited, or of a newer version.
        """
        from safetensors import safe_open

        try:
            if path.stat().st_size > MAX_BYTES:
                raise PeopleFileError(f"people registry {path} is too large to be one")
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            content = metadata[KEY]
            stored = json.loads(content)
            version = stored["version"]
            if type(version) is int and version > FORMAT_VERSION:
                raise PeopleFileError(
                    f"people registry {path} has the newer version {version}: update idpersona"
                )
            if metadata.get("sha256") != _digest(content, tensors):
                raise PeopleFileError(
                    f"people registry {path} was damaged or edited: restore it, or make a new one"
                )
            return cls(tuple(_persons(stored["people"], tensors)), stored["others"])
        except PeopleFileError:
            raise
        except FileNotFoundError as error:
            raise PeopleFileError(f"no people registry at {path}") from error
        except Exception as error:  # hostile bytes may break any of the readers
            raise PeopleFileError(f"people registry {path} is damaged: {type(error).__name__}") from error


def cover(persons: Sequence[Person]) -> tuple[str, ...]:
    """Few encoders that together know every one of ``persons``: the most common first, then what is left."""
    left, chosen = list(persons), []
    while left:
        names = sorted({encoder for person in left for encoder in person.centroids})
        best = max(names, key=lambda name: sum(name in person.centroids for person in left))
        chosen.append(best)
        left = [person for person in left if best not in person.centroids]
    return tuple(chosen)


def _persons(stored: Sequence[Mapping[str, Any]], tensors: Mapping[str, np.ndarray]) -> list[Person]:
    persons = []
    for index, entry in enumerate(stored):
        fields = {key: value for key, value in entry.items() if key != "encoders"}
        centroids = {encoder: tensors[f"{index}.{encoder}"] for encoder in entry["encoders"]}
        persons.append(Person(centroids=centroids, **fields))
    return persons


def _digest(content: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(f"\n{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def load_people(path: Path | None = None) -> People:
    """The user's registry; empty when there is none at the default place.

    Raises:
        PeopleFileError: it is damaged, or ``IDPERSONA_PEOPLE`` names a file that does not exist.
    """
    where = path or people_path()
    if not where.exists() and not os.environ.get("IDPERSONA_PEOPLE") and path is None:
        return People()
    return People.load(where)
