"""Train a classifier of the 40 CelebA attributes on whole framed pictures.

Two are trained on disjoint people: the *labeler* (captions, prompts, directions) and the *judge* (measuring
only).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import BadInput
from idpersona.pixels import shrink, to_tensor
from idpersona.training.data.faces import FaceData
from idpersona.training.data.pictures import jitter, run_over
from idpersona.training.data.split import half_of_people
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective


class AttributesConfig(BaseModel):
    """``half`` 0 or 1: which half of the training people (by a hash of the person's key)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["attributes"]
    half: Literal[0, 1]
    widths: tuple[int, ...] = (32, 48, 80, 128)


class AttributesObjective(Objective):
    """Binary cross-entropy over known attributes; rare ones weigh more, so that both answers count alike."""

    def __init__(self, config: AttributesConfig):
        self.faces = FaceData.open("train")
        labelled = (self.faces.attributes >= 0).all(axis=1)
        self.rows = np.flatnonzero(labelled & half_of_people(self.faces.identities, config.half))
        if not len(self.rows):
            raise BadInput(f"no photo of half {config.half} of the people has all its attributes")
        rate = self.faces.attributes[self.rows].mean(axis=0).clip(0.01, 0.99)
        self.weight_yes = torch.from_numpy(np.sqrt((1 - rate) / rate)).float()
        self.weight_no = torch.from_numpy(np.sqrt(rate / (1 - rate))).float()
        self.trained = SmallFaceCNN(
            out_dim=len(self.faces.attribute_names), widths=config.widths, labels=self.faces.attribute_names
        )

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        device = self.trained.device
        drawn = [self._sample(key.rng(i)) for i in key.indices]
        pictures = to_tensor([d[0] for d in drawn]).to(device)
        wanted = torch.from_numpy(self.faces.attributes[[d[1] for d in drawn]]).float().to(device)
        logits = self.trained(pictures).float()
        weight = torch.where(wanted > 0.5, self.weight_yes.to(device), self.weight_no.to(device))
        loss = F.binary_cross_entropy_with_logits(logits, wanted, weight=weight)
        right = ((logits > 0) == (wanted > 0.5)).float().mean()
        return loss, {"right": float(right)}

    def _sample(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        row = int(self.rows[rng.integers(len(self.rows))])
        return jitter(shrink(self.faces.framed_random(row, rng)[0]), rng), row

    def export(self, folder: Path) -> None:
        """Write ``model``, with what it reached on validation people in its configuration."""
        self.trained.register_to_config(metrics={"validation_balanced_accuracy": self._validate()})
        self.trained.save_pretrained(folder / "model")

    def _validate(self) -> dict[str, float]:
        """Balanced accuracy per attribute, of those that some photos have and some have not."""
        faces = FaceData.open("validation")
        rows = np.flatnonzero((faces.attributes >= 0).all(axis=1))
        answers = run_over(self.trained, rows, lambda row: shrink(faces.framed(row))).numpy() > 0
        truth = faces.attributes[rows] > 0
        result = {}
        for column, name in enumerate(faces.attribute_names):
            yes = truth[:, column]
            if yes.any() and not yes.all():
                hit = (answers[yes, column].mean() + (~answers[~yes, column]).mean()) / 2
                result[name] = round(float(hit), 3)
        return result
