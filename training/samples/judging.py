"""Whose face a picture shows, by a face encoder.

What an adapter is told of a person comes from an encoder, and an identity loss from an encoder as well. By
that same encoder, or by one that imitates it, likeness grows with every such picture that pleases it, whether
or not anybody else would know the person: the score is optimistic. An encoder that has no part in training
(``mini-judge``, which ships for measuring alone) says what was gained. Every figure is kept with its judge's
name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders import DEFAULT_ENCODER, encoder_names, get_encoder
from idpersona.encoders.base import Face, Measure, compare_vectors, tells_people_apart
from idpersona.encoders.judge import MINI_JUDGE, mini_judge
from idpersona.errors import BadInput, UnknownName


class Witness:
    """Finds the largest face of a picture, and compares faces.

    Args:
        name: a face encoder of the registry that tells people apart, or ``mini-judge``, for which the default
            encoder finds the faces.

    Attributes:
        measure: how faces are compared; larger is more alike, 1 is equal.
        weights_sha256: of the network.

    Raises:
        UnknownName: there is no such encoder.
        BadInput: the encoder does not tell people apart.
        MissingWeights: its weights are not here.
    """

    def __init__(self, name: str):
        known = [*encoder_names("face"), MINI_JUDGE]
        if name not in known:
            raise UnknownName("judge", name, known)
        self.name, self._judge = name, mini_judge() if name == MINI_JUDGE else None
        self._encoder: Any = get_encoder(DEFAULT_ENCODER if self._judge else name)
        self.measure: Measure = "cosine" if self._judge else self._encoder.measure
        self.weights_sha256: str = (self._judge or self._encoder).weights_sha256
        if self._judge is None and not tells_people_apart(self._encoder):
            raise BadInput(
                f"samples.judge: '{name}' does not tell people apart: take {DEFAULT_ENCODER} or {MINI_JUDGE}"
            )

    def look(self, picture: Image.Image) -> tuple[Face, np.ndarray] | None:
        """The largest face of an RGB picture and its embedding float32 [D]; None where there is no face."""
        faces = self._encoder.detect(picture)
        if not faces:
            return None
        face = faces[0]
        if self._judge is not None:
            return face, self._judge.embed([picture], [face.keypoints])[0]
        return face, self._encoder.embed(picture, face)

    def likeness(self, one: np.ndarray, other: np.ndarray) -> float:
        """Of two embeddings [D], by ``measure``."""
        return compare_vectors(one, other, self.measure)
