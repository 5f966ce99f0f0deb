"""The identities that an adapter is given, and the features that it reads of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from idpersona.errors import BadInput
from idpersona.identity import Identity

People = Identity | Sequence[Identity]


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
