"""Attributes for photos that come without: said by the labeler where it is sure, else left unknown."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.training.data.faces import FaceData
from idpersona.training.objectives.attributes import pictures_to_tensor

SURE = 0.8


@torch.inference_mode()
def label_unknown(faces: FaceData, labeler: str | None) -> np.ndarray:
    """Attributes int8 [N, 40]: those given, and for unknown ones the labeler's where its probability is above
    SURE or below 1 - SURE. Without a labeler the given ones only."""
    attributes = faces.attributes.copy()
    if labeler is None:
        return attributes
    network = SmallFaceCNN.from_pretrained(labeler).eval()
    rows = np.flatnonzero((attributes < 0).any(axis=1))
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        pictures = [cv2.resize(faces.framed(int(r))[0], (64, 64), interpolation=cv2.INTER_AREA) for r in part]
        probability = torch.sigmoid(network(pictures_to_tensor(pictures))).numpy()
        guess = np.where(probability > SURE, 1, np.where(probability < 1 - SURE, 0, -1)).astype(np.int8)
        attributes[part] = np.where(attributes[part] >= 0, attributes[part], guess)
    return attributes
