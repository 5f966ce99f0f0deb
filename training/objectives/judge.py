"""Train the identity judge: a small face recogniser that conditions nothing and enters no loss of a generator.

CosFace margin (Wang et al., arXiv:1801.09414) over training people with several photos.
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

from idpersona.encoders.alignment import ARCFACE_TEMPLATE, similarity_transform
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.training.data.faces import FaceData
from idpersona.training.keyed import StepKey
from idpersona.training.objectives.attributes import jitter, pictures_to_tensor


class JudgeConfig(BaseModel):
    """Size of the network and the margin loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["identity-judge"]
    dim: int = 128
    widths: tuple[int, ...] = (32, 64, 96, 160)
    blocks: int = 2
    scale: float = 24.0
    margin: float = 0.25


class JudgeObjective:
    """See the module's docstring. ``trained['network']`` is shipped, ``trained['centres']`` is not."""

    def __init__(self, config: JudgeConfig):
        self.config = config
        self.faces = FaceData.open("train")
        people, index, counts = np.unique(self.faces.identities, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(counts >= 2)
        place = np.full(len(people), -1)
        place[kept] = np.arange(len(kept))
        self.label = place[index]
        self.rows = np.flatnonzero(self.label >= 0)
        # Between drawing people and drawing photos evenly: the square root of how many photos a person has.
        weight = 1 / np.sqrt(counts[index[self.rows]])
        self.weights = np.cumsum(weight) / weight.sum()
        network = SmallFaceCNN(out_dim=config.dim, widths=config.widths, blocks=config.blocks, task="identity")
        centres = nn.Linear(config.dim, len(kept), bias=False)
        self.trained: nn.Module = nn.ModuleDict({"network": network, "centres": centres})

    def loss(self, module: Any, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        drawn = [self._sample(key.rng(i)) for i in key.indices]
        pictures = pictures_to_tensor([d[0] for d in drawn])
        labels = torch.tensor([d[1] for d in drawn])
        embedding = F.normalize(module["network"](pictures).float(), dim=1)
        cosine = embedding @ F.normalize(module["centres"].weight.float(), dim=1).T
        right = (cosine.argmax(1) == labels).float().mean()
        cosine = cosine - self.config.margin * F.one_hot(labels, cosine.shape[1])
        return F.cross_entropy(cosine * self.config.scale, labels), {"right": float(right)}

    def _sample(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        row = int(self.rows[np.searchsorted(self.weights, rng.random())])
        picture = aligned(self.faces, row, rng)
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        return jitter(picture, rng), int(self.label[row])

    def export(self, folder: Path) -> None:
        network: Any = self.trained["network"]  # type: ignore[index]
        network.eval()
        network.register_to_config(metrics=self._validate(network))
        network.save_pretrained(folder / "model")

    @torch.inference_mode()
    def _validate(self, network: nn.Module) -> dict[str, float]:
        """Verification of validation people: area under the curve and best accuracy over as many pairs of
        different people as of the same."""
        faces = FaceData.open("validation")
        embedding = []
        for start in range(0, len(faces), 64):
            pictures = [aligned(faces, r) for r in range(start, min(start + 64, len(faces)))]
            embedding.append(F.normalize(network(pictures_to_tensor(pictures)), dim=1))
        cosine = (torch.cat(embedding) @ torch.cat(embedding).T).numpy()
        same = faces.identities[:, None] == faces.identities[None]
        upper = np.triu(np.ones_like(same), 1)
        genuine = np.sort(cosine[same & upper])
        impostor = np.sort(np.random.default_rng(0).choice(cosine[~same & upper], len(genuine), replace=False))
        auc = np.searchsorted(impostor, genuine).mean() / len(impostor)
        cuts = np.linspace(-1, 1, 401)
        accuracy = max(((genuine > c).mean() + (impostor <= c).mean()) / 2 for c in cuts)
        return {"pairs": 2 * len(genuine), "auc": round(float(auc), 4), "accuracy": round(float(accuracy), 4)}


def aligned(faces: FaceData, row: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """One face aligned to the ArcFace template at 64x64, uint8 [64, 64, 3]; ``rng`` shakes the points a little."""
    points = faces.keypoints[row].astype(np.float64)
    if rng is not None:
        spread = 0.02 * np.linalg.norm(points[1] - points[0])
        points = points + rng.normal(0, spread, size=(5, 2))
    matrix = similarity_transform(points, ARCFACE_TEMPLATE * (64 / 112))
    return cv2.warpAffine(faces.photo(row), matrix, (64, 64), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
