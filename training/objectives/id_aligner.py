"""Make a trained adapter draw people more alike, by reward feedback (ID-Aligner, arXiv:2404.15449).

What is trained, on what, and how it is conditioned, is the adapter's own objective (``adapter``, a table as
its recipe has it); of that, only its losses are not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.face_reader import FaceReader
from idpersona.training.objectives.feedback import Feedback, FeedbackConfig, Points, look_keys
from idpersona.training.objectives.injection import InjectionObjective
from idpersona.training.objectives.injection_data import FaceInjection, InjectionBatch
from idpersona.training.objectives.stopping import Stopping
from idpersona.training.samples.drawing import Drawing


class IdAlignerConfig(FeedbackConfig):
    """``adapter``: the table ``objective`` of a recipe of the method; the recipe's ``init_from`` is where the
    adapter lies."""

    kind: Literal["id-aligner"]
    adapter: dict[str, Any]


class IdAlignerObjective(Objective):
    """See the module's docstring.

    Args:
        config: see there.
        inner: the adapter's own objective, which holds the trained adapter.

    Raises:
        BadInput: faces shall be where the method is not told to draw them.
    """

    def __init__(self, config: IdAlignerConfig, inner: InjectionObjective):
        if config.align == "target" and not inner.places_faces:
            raise BadInput(
                f"objective.align: {inner.folder} is not told where to draw a face: set it to detect"
            )
        self.config = config.model_copy(update={"adapter": inner.config.model_dump(mode="json")})
        self.inner, self.trained = inner, inner.trained
        self.detect = config.align == "detect" or not inner.places_faces
        if not isinstance(inner.data, FaceInjection):
            raise BadInput("objective.adapter.dataset: rewards look at reference photos, leave it out")
        model = inner.model
        self.feedback = Feedback(config, model.decode, model.shape, model.schedule, inner.trained)
        self.stopping: Stopping | None = None
        if config.stop_on is not None:
            self.check_every = config.stop_every
            self.stopping = Stopping(config.stop_on, inner.trained, config.patience)
            # Of people whom no training sees, each by another photo than the one whose pose is drawn.
            always = {"identity_drop": 0.0, "both_drop": 0.0, "caption_drop": 0.0, "same_photo": 0.0}
            told = inner.config.model_copy(update=always)
            self.held_out = FaceInjection(told, model.schedule.timesteps, "validation")

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        inner = self.inner
        batch = inner.data.batch(key).to(inner.device)
        text, people = inner.encode(batch), self._people(self.feedback.reader, batch)
        return self.feedback.loss(
            lambda: inner.predictor(batch, text), people, batch.texts, self._points(batch), key
        )

    def enough(self, step: int) -> bool:
        return self.stopping is not None and self.stopping.enough(step, self.score)

    def score(self) -> float:
        """How much more alike held-out people are drawn to themselves than to each other, by ``stop_on``:
        a difference of cosines, those of pictures without a face being 0."""
        reader, inner = self.feedback.witness, self.inner
        assert reader is not None
        looks, faces = list[Tensor](), list[Tensor]()
        for key in look_keys(self.config.stop_pictures):
            batch = self.held_out.batch(key).to(inner.device)
            faces.append(self._people(reader, batch))
            looks.append(self._look(batch, faces[-1], key))
        seen, people = torch.cat(looks), torch.cat(faces)
        own, others = ((seen * known).sum(dim=1).mean() for known in (people, people.roll(1, 0)))
        return float(own - others)

    def _look(self, batch: InjectionBatch, people: Tensor, key: StepKey) -> Tensor:
        text = self.inner.encode(batch)
        return self.feedback.look(lambda: self.inner.predictor(batch, text), people, self._points(batch), key)

    def checkpoint_activations(self) -> None:
        self.inner.checkpoint_activations()

    def drawing(self) -> AbstractContextManager[Drawing]:
        return self.inner.drawing()

    def save(self, folder: Path) -> None:
        """The adapter itself, and what is known of its score."""
        self.inner.save(folder)
        if self.stopping is not None:
            self.stopping.save(folder)

    def resumed(self, checkpoint: Path) -> None:
        if self.stopping is not None:
            self.stopping.load(checkpoint)

    def export(self, folder: Path) -> None:
        """Write the adapter as its own objective does; with ``stop_on`` by its best weights."""
        if self.stopping is not None:
            self.stopping.put_best()
            self.stopping.write_scores(folder)
        self.inner.export(folder)

    def _points(self, batch: InjectionBatch) -> Points:
        return None if self.detect else list(batch.points.cpu().numpy())

    @torch.no_grad()
    def _people(self, reader: FaceReader, batch: InjectionBatch) -> Tensor:
        """Unit embeddings of the references [B, D]; zeros for nobody."""
        found = reader(batch.references, batch.reference_points)
        return found * batch.somebody.to(found)[:, None]
