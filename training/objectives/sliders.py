"""Train the W+ adapter's editing directions on what they do to drawn pictures.

Directions found in the codes of photos (:mod:`idpersona.training.directions`) say how codes differ, not what
the adapter makes of it. Here they start from those and are moved, everything else frozen, until an amount of
1 changes the answer of the ``labeler`` to a drawn picture by the spread that its answers have over photos,
whoever is drawn and from whatever noise, while its answers about everything else stay. They are drawn in few
steps, without guidance and without the adapter's delay: what an amount does with a user's settings is for
``eval sliders`` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from idpersona.adapters.wplus.adapter import WPlus
from idpersona.adapters.wplus.branch import ResidualBranch
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.encoders.style import StyleEncoder
from idpersona.errors import BadInput
from idpersona.pixels import CLASSIFIER_SIDE, shrink, to_tensor
from idpersona.seams.cross import cross_scope
from idpersona.training.data.faces import FaceData, sampling_weights
from idpersona.training.data.pictures import run_over
from idpersona.training.directions import attribute_of
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import Predict, draw
from idpersona.training.objectives.frozen import frozen
from idpersona.training.objectives.latent_model import LatentModel
from idpersona.training.objectives.wplus import STAGE_1_PROMPT
from idpersona.training.weights import require_folder

_SPREAD_PHOTOS = 1024


class SlidersConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        base: folder of the text-to-image pipeline.
        adapter: folder of a W+ adapter that has directions.
        style: folder of the encoder of its W+ space.
        labeler: folder of the attribute classifier that says what a picture shows.
        prompt: of all drawings.
        amount: directions are applied by up to so much, either way.
        others: weight of what changes in all attributes but the one that is meant.
        length: weight of the squared change of a code, whose numbers have a spread of about 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sliders"]
    base: str
    adapter: str
    style: str
    labeler: str
    prompt: str = STAGE_1_PROMPT
    amount: float = Field(2.0, ge=0)
    others: float = Field(1.0, ge=0)
    length: float = Field(0.1, ge=0)


class SlidersObjective(Objective):
    """See the module's docstring."""

    def __init__(self, config: SlidersConfig):
        self.config = config
        self.model = LatentModel.open(config.base)
        self.unet, self.kernel = self.model.unet, self.model.kernel
        adapter: Any = WPlus.from_pretrained(require_folder(config.adapter, "W+ adapter", "wplus-2"))
        if adapter.own_directions is None:
            raise BadInput(
                f"objective.adapter: {config.adapter} has no directions to start from: "
                "python -m idpersona.training.directions finds some"
            )
        adapter.check_fits(self.unet)
        self.adapter = adapter.to(dtype=torch.float32)
        for part in self.adapter.parts.values():
            part.requires_grad_(False)
        self.style: Any = frozen(StyleEncoder, config.style, "W+ encoder", "mini-style")
        self.labeler: Any = frozen(SmallFaceCNN, config.labeler, "attribute classifier", "labeler")
        self.names = list(adapter.own_directions.config["names"])
        made = [self.style.config["rows"], self.style.config["dim"]]
        read = [adapter.config.rows, adapter.config.dim]
        if made != read:
            raise BadInput(
                f"objective.style: {config.style} makes codes {made}, {config.adapter} takes {read}"
            )
        meant = [attribute_of(name, self.labeler.config["labels"]) for name in self.names]
        self.columns, self.signs = (torch.tensor(part) for part in zip(*meant, strict=True))
        self.trained = nn.ParameterDict({"steps": nn.Parameter(adapter.own_directions.steps.clone())})
        self.faces = FaceData.open("train")
        self.weights = sampling_weights(self.faces)
        rows = np.random.default_rng(0).permutation(len(self.faces))[:_SPREAD_PHOTOS]
        answers = run_over(self.labeler, rows, lambda row: shrink(self.faces.framed(row)))
        self.spread = answers.std(dim=0).clamp(min=1e-3)

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        steps = self.trained["steps"]
        codes, chosen, amounts = (value.to(steps.device) for value in self._samples(key))
        moved = codes + amounts[:, None, None] * steps[chosen]
        with torch.no_grad():
            before = self._answers(
                draw(self._predictor(codes), self.model.shape, key, steps.device).estimate()
            )
        drawn = draw(self._predictor(moved), self.model.shape, key, steps.device)
        change = (self._answers(drawn.estimate()) - before) / self.spread.to(steps.device)
        columns = self.columns.to(steps.device)[chosen]
        wanted = amounts * self.signs.to(steps.device)[chosen]
        missed = F.smooth_l1_loss(change.gather(1, columns[:, None])[:, 0], wanted, reduction="none")
        beside = change.scatter(1, columns[:, None], 0.0).square().mean(dim=1)
        length = (moved - codes).square().mean(dim=(1, 2))
        # Early on the way an estimate is a blur, of which the classifier knows little.
        terms = drawn.signal() * (missed + self.config.others * beside) + self.config.length * length
        figures = {"missed": missed, "beside": beside, "length": length}
        return terms.mean(), {name: float(value.detach().mean()) for name, value in figures.items()}

    def _samples(self, key: StepKey) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [B, rows, dim] of photos, the number of a direction for each, and its amount, [B]."""
        photos, chosen, amounts = [], [], []
        for index in key.indices:
            rng = key.rng(index)
            row = int(np.searchsorted(self.weights, rng.random()))
            photos.append(self.faces.framed_random(row, rng, wide=False)[0])
            chosen.append(int(rng.integers(len(self.names))))
            amounts.append(float(rng.uniform(-1, 1)) * self.config.amount)
        device = self.trained["steps"].device
        with torch.no_grad():
            codes = self.style.to(device)(self.model.encode(to_tensor(photos).to(device))).float()
        return codes, torch.tensor(chosen), torch.tensor(amounts)

    def _predictor(self, codes: Tensor) -> Predict:
        model = self.model.to(codes.device)
        self.adapter.to(codes.device)
        adapter: Any = self.adapter
        branch = ResidualBranch(adapter.cross_attention, adapter.mapper(codes), kernel=self.kernel)
        told = model.tell([self.config.prompt] * len(codes))

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            with cross_scope(self.unet, [branch]):
                return model.predict(noisy, timesteps, told)

        return predict

    def _answers(self, latents: Tensor) -> Tensor:
        """Logits [B, attributes] of the pictures that ``latents`` stand for; gradients pass."""
        pictures = self.model.decode(latents)
        # What a picture cannot hold must not pay.
        seen = F.adaptive_avg_pool2d(pictures.clamp(-1, 1), CLASSIFIER_SIDE)
        return self.labeler.to(latents.device)(seen).float()

    def export(self, folder: Path) -> None:
        """Write the adapter with its new directions as ``wplus``."""
        self.adapter.own_directions.steps = self.trained["steps"].detach().cpu().clone()
        self.adapter.save_pretrained(folder / "wplus")
