"""Subjects with the identities an adapter read of them, and the shots in which they play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idpersona.errors import BadInput, PhotoError
from idpersona.eval.generation import Shot
from idpersona.eval.progress import track
from idpersona.eval.protocol import Protocol
from idpersona.eval.subjects import Subject

if TYPE_CHECKING:
    import numpy as np

    from idpersona.identity import Identity


@dataclass(frozen=True)
class Actor:
    """A subject, what the adapter knows of it, and the pose of its reference in the usual framing."""

    subject: Subject
    identity: Identity | None
    pose: np.ndarray

    def shot(self, prompt: str, seed: int, scale: float, pose: np.ndarray | None = None) -> Shot:
        """A picture of this person, in the reference's pose unless another one is asked for."""
        return Shot(prompt, seed, self.identity, self.pose if pose is None else pose, scale)


def cast_actors(
    adapter: Any | None, subjects: Sequence[Subject], protocol: Protocol, *, quiet: bool = False
) -> tuple[list[Actor], list[str]]:
    """Read each subject's identity from the reference photo alone.

    Without an adapter the actors carry no identity (floor and ceiling rows need none). Returns the actors and
    a line for every person whose reference the adapter's encoder could not read.

    Raises:
        BadInput: fewer than two people could be read.
    """
    actors: list[Actor] = []
    failures: list[str] = []
    for subject in track(subjects, "reading identities", total=len(subjects), quiet=quiet or adapter is None):
        pose = subject.reference.framed(protocol.size)[1]
        try:
            identity = None if adapter is None else adapter.read([subject.reference.image])
        except PhotoError as error:
            failures.append(f"{subject.name} left out: {subject.reference.file}: {error}")
            continue
        actors.append(Actor(subject, identity, pose))
    if len(actors) < 2:
        raise BadInput(f"only {len(actors)} people could be read; the first reason: {failures[:1]}")
    return actors, failures


def person_seed(protocol: Protocol, person: int, picture: int = 0) -> int:
    """Seed of a person's picture: the same in every row and at every scale."""
    return protocol.seed * 1_000_003 + person * protocol.pictures_per_person + picture
