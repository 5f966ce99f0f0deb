"""Several readings of one subject joined into one identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np

from idpersona.errors import BadInput
from idpersona.identity import MAX_WARNINGS, Feature, Identity, MergeRule


def merge_identities(
    identities: Sequence[Identity], how: MergeRule = "mean", weights: Sequence[float] | None = None
) -> Identity:
    """Join identities of one subject.

    Args:
        identities: at least one, of one kind, with the same encoders and encoder weights.
        how: ``"mean"`` counts each identity once (InstantID's rule for several photos); ``"weighted"`` by
            ``weights``; ``"concat"`` keeps all rows, for adapters that read several.
        weights: for ``"weighted"`` only: one number of zero or more each; their sum is scaled to 1.

    Returns:
        Identity with the first one's keypoints and image size, all sources and warnings, and consent only if
        every part has it. The mean of a normalised feature is normalised again.

    Raises:
        BadInput: nothing to merge, different kinds or encoders, weights that do not fit, or features that
            cancel out.
    """
    parts = list(identities)
    if not parts:
        raise BadInput("nothing to merge: give at least one identity")
    if how not in get_args(MergeRule):
        raise BadInput(f"unknown merge rule {how!r}: use {', '.join(get_args(MergeRule))}")
    shares = _shares(len(parts), how, weights)
    first = parts[0]
    for part in parts[1:]:
        if part.kind != first.kind:
            raise BadInput(f"cannot merge a {first.kind} with a {part.kind}")
        if set(part.features) != set(first.features):
            different = ", ".join(sorted(set(part.features) ^ set(first.features)))
            raise BadInput(f"cannot merge: feature {different} is not in all identities")
    return Identity(
        kind=first.kind,
        features={name: _merge([p.features[name] for p in parts], how, shares) for name in first.features},
        keypoints=first.keypoints,
        image_size=first.image_size,
        sources=tuple(source for part in parts for source in part.sources),
        consent=all(part.consent for part in parts),
        warnings=few_warnings(warning for part in parts for warning in part.warnings),
    )


def few_warnings(warnings: Iterable[str]) -> tuple[str, ...]:
    """As many as an identity may hold, without repeats; the last one says how many were left out."""
    every = tuple(dict.fromkeys(warnings))
    if len(every) <= MAX_WARNINGS:
        return every
    kept = MAX_WARNINGS - 1
    return (*every[:kept], f"and {len(every) - kept} more doubts")


def _shares(count: int, how: str, weights: Sequence[float] | None) -> np.ndarray:
    if how != "weighted":
        if weights is not None:
            raise BadInput(f"weights are for how='weighted', not for '{how}'")
        return np.full(count, 1.0 / count)
    if weights is None or len(weights) != count:
        raise BadInput(f"give one weight for each of the {count} identities")
    shares = np.asarray(weights, dtype=np.float64)
    if shares.shape != (count,) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise BadInput("weights must be finite, zero or more, and not all zero")
    return shares / shares.sum()


def _merge(features: list[Feature], how: str, shares: np.ndarray) -> Feature:
    first = features[0]
    for other in features[1:]:
        for key in ("dim", "tokens", "normalised", "weights_sha256", "preprocessing"):
            if getattr(other, key) != getattr(first, key):
                raise BadInput(f"cannot merge '{first.encoder}': {key} differs between the identities")
    if how == "concat":
        values = np.concatenate([f.values for f in features])
    else:
        photos = [f.values.astype(np.float64).reshape(-1, f.tokens, f.dim) for f in features]
        means = np.stack([photo.mean(axis=0) for photo in photos])
        values = (shares[:, None, None] * means).sum(axis=0)
        if first.normalised:
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            if lengths.min() < 1e-6:
                raise BadInput(f"cannot merge '{first.encoder}': the features cancel out")
            values = values / lengths
    return Feature(
        encoder=first.encoder,
        values=values.astype(np.float32),
        weights_sha256=first.weights_sha256,
        preprocessing=first.preprocessing,
        normalised=first.normalised,
        licence=first.licence,
        tokens=first.tokens,
    )
