"""Attribute classifiers: ``labeler`` (for prompts and directions) and ``attr-judge`` (for measuring only).

They were trained on disjoint people, so that what the labeler taught a model is not confirmed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from idpersona.errors import BadInput, UnknownName
from idpersona.eval.weights import weights_sha256
from idpersona.registry import locate

CLASSIFIERS = ("labeler", "attr-judge")
_SIDE = 64
_BATCH = 128


@dataclass(frozen=True)
class AttributeClassifier:
    """A classifier of whole pictures; ``labels`` name the columns of its output."""

    name: str
    module: torch.nn.Module
    labels: tuple[str, ...]
    weights_sha256: str

    @torch.no_grad()
    def probabilities(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [pictures, labels] in 0..1, of RGB pictures in the embedded model's framing; no face is
        sought.
        """
        rows = []
        for start in range(0, len(pictures), _BATCH):
            pixels = np.stack([_small(picture) for picture in pictures[start : start + _BATCH]])
            batch = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
            rows.append(torch.sigmoid(self.module(batch.contiguous()).float()).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def says(self, pictures: Sequence[Image.Image], attribute: str) -> np.ndarray:
        """bool [pictures]: the attribute is more likely present than not; BadInput for an unknown one."""
        if attribute not in self.labels:
            raise BadInput(
                f"{self.name} does not know the attribute {attribute}; known: {', '.join(self.labels)}"
            )
        return self.probabilities(pictures)[:, self.labels.index(attribute)] > 0.5


def _small(picture: Image.Image) -> np.ndarray:
    import cv2

    # Averages of areas, as in the classifiers' training.
    return cv2.resize(np.asarray(picture.convert("RGB")), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def get_classifier(name: str) -> AttributeClassifier:
    """``labeler`` or ``attr-judge``; raises UnknownName, or MissingWeights when the checkout lacks it."""
    from idpersona.encoders.small_cnn import SmallFaceCNN

    if name not in CLASSIFIERS:
        raise UnknownName("attribute classifier", name, CLASSIFIERS)
    path = locate(name)
    module = SmallFaceCNN.from_pretrained(path, torch_dtype=torch.float32).eval()
    return AttributeClassifier(name, module, tuple(module.config["labels"]), weights_sha256(path))
