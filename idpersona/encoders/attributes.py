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
from idpersona.hashing import weights_sha256
from idpersona.pixels import shrink, to_tensor
from idpersona.registry import locate

CLASSIFIERS = ("labeler", "attr-judge")
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
            part = [
                shrink(np.asarray(picture.convert("RGB"))) for picture in pictures[start : start + _BATCH]
            ]
            rows.append(torch.sigmoid(self.module(to_tensor(part)).float()).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def says(self, pictures: Sequence[Image.Image], attribute: str) -> np.ndarray:
        """bool [pictures]: the attribute is more likely present than not; BadInput for an unknown one."""
        if attribute not in self.labels:
            raise BadInput(
                f"{self.name} does not know the attribute {attribute}; known: {', '.join(self.labels)}"
            )
        return self.probabilities(pictures)[:, self.labels.index(attribute)] > 0.5


def get_classifier(name: str) -> AttributeClassifier:
    """``labeler`` or ``attr-judge``; raises UnknownName, or MissingWeights when the checkout lacks it."""
    from idpersona.checkpoint import load_component
    from idpersona.encoders.small_cnn import SmallFaceCNN

    if name not in CLASSIFIERS:
        raise UnknownName("attribute classifier", name, CLASSIFIERS)
    path = locate(name)
    module = load_component(SmallFaceCNN, path).float()
    return AttributeClassifier(name, module, tuple(module.config["labels"]), weights_sha256(path))
