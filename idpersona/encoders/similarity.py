"""Are two identities one person?"""

from __future__ import annotations

from typing import TypedDict

from idpersona.encoders.base import Measure, compare_vectors, tells_people_apart
from idpersona.encoders.catalogue import get_encoder
from idpersona.errors import BadInput, IdentityFileError
from idpersona.identity import Identity


class Similarity(TypedDict):
    """Result of :func:`similarity`; ``similarity`` and ``threshold`` are in units of ``measure``."""

    encoder: str
    measure: Measure
    similarity: float
    threshold: float
    same_person: bool


def similarity(a: Identity, b: Identity, encoder: str | None = None) -> Similarity:
    """Compare two identities by the mean row of one feature.

    Args:
        encoder: registry name; None takes the first feature that both have and that tells people apart.

    Returns:
        ``{encoder, measure, similarity, threshold, same_person}``. For every measure larger is more alike
        and 1 is equal; ``same_person`` is ``similarity >= threshold``. dlib measures 1 - L2 distance (its
        published distance of 0.6 is a threshold of 0.4), the InsightFace packs the cosine.

    Raises:
        IdentityFileError: no feature in common, or not of that encoder, or of different encoder weights.
        UnknownName, MissingWeights: the encoder is not known or not loadable here.
        BadInput: what the encoder sees does not tell people apart.
    """
    if encoder is None:
        common = [name for name in a.features if name in b.features]
        if not common:
            raise IdentityFileError(
                f"nothing to compare: one identity holds {', '.join(a.features)}, the other "
                f"{', '.join(b.features)}; read both with the same encoder"
            )
        # What is kept for an adapter to draw from is no measure of likeness.
        encoder = next((name for name in common if tells_people_apart(get_encoder(name))), common[0])
    one, two = a.feature(encoder), b.feature(encoder)
    if one.weights_sha256 and two.weights_sha256 and one.weights_sha256 != two.weights_sha256:
        raise IdentityFileError(
            f"the two '{encoder}' features were made with different weights: read both again"
        )
    if one.dim != two.dim:
        raise BadInput(f"the two '{encoder}' features have lengths {one.dim} and {two.dim}")
    judge = get_encoder(encoder)
    if not tells_people_apart(judge):
        raise BadInput(
            f"features of '{encoder}' do not tell people apart: read both with --encoder dlib, too"
        )
    value = compare_vectors(one.values.mean(axis=0), two.values.mean(axis=0), judge.measure)
    return {
        "encoder": encoder,
        "measure": judge.measure,
        "similarity": value,
        "threshold": judge.threshold,
        "same_person": bool(value >= judge.threshold),
    }
