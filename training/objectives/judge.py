"""Train the identity judge: a small face recogniser for measuring, which no generator is ever trained by.

CosFace margin (Wang et al., arXiv:1801.09414) over training people with several photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from idpersona.encoders.alignment import align
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import BadInput
from idpersona.pixels import CLASSIFIER_SIDE, to_tensor
from idpersona.training.data.faces import FaceData
from idpersona.training.data.pictures import jitter, run_over
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective


class JudgeConfig(BaseModel):
    """Size of the network and the margin loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["identity-judge"]
    dim: int = 128
    widths: tuple[int, ...] = (32, 64, 96, 160)
    blocks: int = 2
    scale: float = 24.0
    margin: float = 0.25


class JudgeObjective(Objective):
    """See the module's docstring. ``network`` is shipped, ``centres`` are not."""

    def __init__(self, config: JudgeConfig):
        self.config = config
        self.faces = FaceData.open("train")
        people, index, counts = np.unique(self.faces.identities, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(counts >= 2)
        if len(kept) < 2:
            raise BadInput("the judge needs at least two training people with two photos each")
        place = np.full(len(people), -1)
        place[kept] = np.arange(len(kept))
        self.label = place[index]
        self.rows = np.flatnonzero(self.label >= 0)
        # Between drawing people and drawing photos evenly: the square root of how many photos a person has.
        weight = 1 / np.sqrt(counts[index[self.rows]])
        self.weights = np.cumsum(weight) / weight.sum()
        self.network = SmallFaceCNN(
            out_dim=config.dim, widths=config.widths, blocks=config.blocks, task="identity"
        )
        self.centres = nn.Linear(config.dim, len(kept), bias=False)
        self.trained = nn.ModuleDict({"network": self.network, "centres": self.centres})

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        drawn = [self._sample(key.rng(i)) for i in key.indices]
        pictures = to_tensor([d[0] for d in drawn]).to(self.network.device)
        labels = torch.tensor([d[1] for d in drawn], device=pictures.device)
        embedding = F.normalize(self.network(pictures).float(), dim=1)
        cosine = embedding @ F.normalize(self.centres.weight.float(), dim=1).T
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
        """Write ``model``, with how well it tells validation people apart in its configuration."""
        self.network.register_to_config(metrics=self._validate())
        self.network.save_pretrained(folder / "model")

    def _validate(self) -> dict[str, float]:
        faces = FaceData.open("validation")
        return verification(
            run_over(self.network, range(len(faces)), partial(aligned, faces)), faces.identities
        )


def verification(embeddings: Tensor, people: np.ndarray) -> dict[str, float]:
    """How well the cosine of embeddings [N, D] tells whether two photos show one of ``people`` [N].

    Area under the curve and best accuracy, over as many pairs of different people as of the same.
    """
    unit = F.normalize(embeddings, dim=1)
    cosine = (unit @ unit.T).numpy()
    same = people[:, None] == people[None]
    upper = np.triu(np.ones_like(same), 1)
    genuine, impostor = np.sort(cosine[same & upper]), cosine[~same & upper]
    pairs = min(len(genuine), len(impostor))
    if not pairs:
        return {"pairs": 0}
    impostor = np.sort(np.random.default_rng(0).choice(impostor, pairs, replace=False))
    auc = np.searchsorted(impostor, genuine).mean() / pairs
    cuts = np.linspace(-1, 1, 401)
    accuracy = max(((genuine > c).mean() + (impostor <= c).mean()) / 2 for c in cuts)
    return {"pairs": 2 * pairs, "auc": round(float(auc), 4), "accuracy": round(float(accuracy), 4)}


def aligned(faces: FaceData, row: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """One face aligned to the ArcFace template, uint8 [64, 64, 3]; ``rng`` shakes the points a little."""
    points = faces.keypoints[row].astype(np.float64)
    if rng is not None:
        spread = 0.02 * np.linalg.norm(points[1] - points[0])
        points = points + rng.normal(0, spread, size=(5, 2))
    photo = Image.fromarray(faces.photo(row))
    return np.asarray(align(photo, points, CLASSIFIER_SIDE, repeat_edges=True))
