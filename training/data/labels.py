"""Attributes for photos that come without: said by the labeler where it is sure, else left unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from idpersona.checkpoint import load_component
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.pixels import shrink
from idpersona.training.data.faces import FaceData
from idpersona.training.data.pictures import run_over
from idpersona.training.weights import require_folder

SURE = 0.8


def label_unknown(faces: FaceData, labeler: str | Path | None) -> np.ndarray:
    """Attributes int8 [N, 40]: those given, and for unknown ones the labeler's where its probability is above
    SURE or below 1 - SURE. Without a labeler the given ones only.

    Raises MissingWeights when there is no labeler at that place.
    """
    attributes = faces.attributes.copy()
    if labeler is None:
        return attributes
    folder = require_folder(labeler, "attribute classifier", "labeler")
    network = load_component(SmallFaceCNN, folder).float()
    rows = np.flatnonzero((attributes < 0).any(axis=1))
    if len(rows):
        logits = run_over(network, rows, lambda row: shrink(faces.framed(row)))
        probability = torch.sigmoid(logits).numpy()
        guess = np.where(probability > SURE, 1, np.where(probability < 1 - SURE, 0, -1)).astype(np.int8)
        attributes[rows] = np.where(attributes[rows] >= 0, attributes[rows], guess)
    return attributes
