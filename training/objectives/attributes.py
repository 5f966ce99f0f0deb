"""Train a classifier of the 40 CelebA attributes on whole framed pictures.

Two are trained on disjoint people: the *labeler* (captions, prompts, directions) and the *judge* (measuring only).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.training.data.faces import FaceData
from idpersona.training.data.split import half_of_people
from idpersona.training.keyed import StepKey


class AttributesConfig(BaseModel):
    """``half`` 0 or 1: which half of the training people (by a hash of the person's key)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["attributes"]
    half: Literal[0, 1]
    widths: tuple[int, ...] = (32, 48, 80, 128)


class AttributesObjective:
    """Binary cross-entropy over known attributes; rare ones weigh more, so that both answers count alike."""

    def __init__(self, config: AttributesConfig):
        self.faces = FaceData.open("train")
        labelled = (self.faces.attributes >= 0).all(axis=1)
        self.rows = np.flatnonzero(labelled & half_of_people(self.faces.identities, config.half))
        rate = self.faces.attributes[self.rows].mean(axis=0).clip(0.01, 0.99)
        self.weight_yes = torch.from_numpy(np.sqrt((1 - rate) / rate)).float()
        self.weight_no = torch.from_numpy(np.sqrt(rate / (1 - rate))).float()
        self.trained: nn.Module = SmallFaceCNN(
            out_dim=len(self.faces.attribute_names), widths=config.widths, labels=self.faces.attribute_names
        )

    def loss(self, module: Any, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        drawn = [self._sample(key.rng(i)) for i in key.indices]
        pictures = pictures_to_tensor([d[0] for d in drawn])
        wanted = torch.from_numpy(self.faces.attributes[[d[1] for d in drawn]]).float()
        logits = module(pictures).float()
        weight = torch.where(wanted > 0.5, self.weight_yes, self.weight_no)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, weight=weight)
        right = ((logits > 0) == (wanted > 0.5)).float().mean()
        return loss, {"right": float(right)}

    def _sample(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        row = int(self.rows[rng.integers(len(self.rows))])
        picture = cv2.resize(self.faces.framed_random(row, rng)[0], (64, 64), interpolation=cv2.INTER_AREA)
        return jitter(picture, rng), row

    def export(self, folder: Path) -> None:
        self.trained.eval()
        metrics = {"validation_balanced_accuracy": self._validate()}
        self.trained.register_to_config(metrics=metrics)  # type: ignore[operator]
        self.trained.save_pretrained(folder / "model")  # type: ignore[operator]

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Balanced accuracy per attribute on people of the validation part."""
        faces = FaceData.open("validation")
        rows = np.flatnonzero((faces.attributes >= 0).all(axis=1))
        said = []
        for start in range(0, len(rows), 64):
            pictures = [
                cv2.resize(faces.framed(int(r))[0], (64, 64), interpolation=cv2.INTER_AREA) for r in rows[start : start + 64]
            ]
            said.append(self.trained(pictures_to_tensor(pictures)).numpy() > 0)
        answers, truth = np.concatenate(said), faces.attributes[rows] > 0
        result = {}
        for column, name in enumerate(faces.attribute_names):
            yes = truth[:, column]
            if yes.any() and not yes.all():
                hit = (answers[yes, column].mean() + (~answers[~yes, column]).mean()) / 2
                result[name] = round(float(hit), 3)
        return result


def pictures_to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """Pictures uint8 [H, W, 3] to a float tensor [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def jitter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small random changes of brightness, contrast, colour and sharpness, uint8 [H, W, 3]."""
    value = picture.astype(np.float32)
    if rng.random() < 0.3:
        side = int(rng.integers(24, 56))
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        value = cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.92, 1.08, size=3)
    mean = value.mean()
    value = (value - mean) * gain + mean + rng.uniform(-20, 20)
    return value.clip(0, 255).astype(np.uint8)
