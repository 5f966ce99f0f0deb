"""Reward feedback (ID-Aligner, arXiv:2404.15449): a model draws, is told how good it is, and draws better.

A picture is drawn from noise without gradients to a random late step (ReFL, arXiv:2304.05977), without
guidance; one prediction more records gradients, its estimate of the clean picture is decoded, and rewarded.
What is rewarded is found where it is cheapest: pictures grow noisy patterns that please a face network and
nobody else. Two guards stand against it: predictions stay near those of the weights that training began
with, and a network that gives no reward says when to stop (``stopping.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from idpersona.training.keyed import StepKey
from idpersona.training.objectives.denoising import Drawn, Predict, Schedule, draw
from idpersona.training.objectives.face_reader import DLIB, FaceReader, find_faces
from idpersona.training.objectives.rewards import (
    Aesthetic,
    FaceSimilarity,
    RewardModel,
    TextSimilarity,
    Wanted,
)

_AT_ONCE = 8
"""Pictures drawn together to be looked at."""
Points = Sequence[np.ndarray | None] | None


class FeedbackConfig(BaseModel):
    """How pictures are drawn and rewarded.

    Attributes:
        weight: of the identity loss, 1 - cosine of the drawn face to the person's. Published are 0.2 for it
            and 0.001 for the aesthetic reward. Where rewards are the whole loss, optimisers such as Adam see
            their ratio only, which is kept; beside a persona's denoising error, give what is published.
        reader: network of that loss: dlib, or the file of an ArcFace network.
        align: ``target`` looks for the face where the model was told to draw it; ``detect`` finds it in the
            decoded estimate, and a picture without a face counts nothing. None: as the model allows.
        steps: of drawing.
        late: share of the steps, at the end, of which one records gradients.
        guard: weight of the squared distance of the prediction from that of the weights at the start.
        clip: folder of a CLIP for the next three.
        aesthetic_head: file of a linear head on its embeddings, see
            :class:`~idpersona.training.objectives.rewards.Aesthetic`.
        aesthetic: weight of what it says.
        text: weight of the cosine of picture and prompt.
        stop_on: network that says when to stop, and has no part in the training otherwise: an ArcFace file,
            dlib or ``mini-judge``. None: the run is as long as its recipe says.
        stop_every: steps between two of its looks.
        patience: looks without a better score after which the run ends.
        stop_pictures: that it looks at, always of the same people, prompts and noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(1.0, ge=0)
    reader: str = DLIB
    align: Literal["target", "detect"] | None = None
    steps: int = Field(10, ge=2)
    late: float = Field(0.3, gt=0, le=1)
    guard: float = Field(0.05, ge=0)
    clip: str | None = None
    aesthetic_head: str | None = None
    aesthetic: float = Field(0.005, ge=0)
    text: float = Field(0.0, ge=0)
    stop_on: str | None = None
    stop_every: int = Field(50, ge=1)
    patience: int = Field(3, ge=1)
    stop_pictures: int = Field(16, ge=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        reads_clip = self.aesthetic_head is not None or self.text > 0
        if reads_clip and self.clip is None:
            raise ValueError("aesthetic_head and text need clip, the folder of a CLIP model")
        if self.clip is not None and not reads_clip:
            raise ValueError("clip is for aesthetic_head or text: name the one, or give the other a weight")
        if self.stop_on is not None and same_network(self.stop_on, self.reader):
            raise ValueError(f"stop_on must be another network than the reader, {self.reader}")
        return self


class _Calling(nn.Module):
    """A function that looks through the parts of ``trained``, as torch's ``functional_call`` wants it."""

    def __init__(self, trained: nn.Module):
        super().__init__()
        self.trained = trained

    def forward(self, function: Callable[[], Tensor]) -> Tensor:
        return function()


class Feedback:
    """See the module's docstring.

    Args:
        config: see there.
        decode: latents to pictures in [-1, 1]; gradients flow.
        shape: of the latents, [C, h, w].
        schedule: the base's noise.
        trained: holds the weights that the guard remembers, when this is made.

    Raises:
        MissingWeights: a network that rewards is not there.
        CheckpointError: it is damaged.
    """

    def __init__(
        self,
        config: FeedbackConfig,
        decode: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
        schedule: Schedule,
        trained: nn.Module,
    ):
        self.config, self.decode, self.shape, self.schedule = config, decode, shape, schedule
        self.reader = FaceReader.open(config.reader)
        self.witness = None if config.stop_on is None else FaceReader.held_out(config.stop_on)
        self.similarity = FaceSimilarity(self.reader)
        self.others: dict[str, tuple[float, RewardModel]] = {}
        if config.clip is not None and config.aesthetic_head is not None:
            self.add("aesthetic", config.aesthetic, Aesthetic(config.clip, config.aesthetic_head))
        if config.clip is not None and config.text:
            self.add("text", config.text, TextSimilarity(config.clip))
        self._calling = _Calling(trained)
        self._start: dict[str, Tensor] = {}
        if config.guard:
            self._start = {
                name: p.detach().clone() for name, p in self._calling.named_parameters() if p.requires_grad
            }

    def add(self, name: str, weight: float, reward: RewardModel) -> None:
        """Reward pictures by ``reward``, too; it is logged under ``name``."""
        self.others[name] = (weight, reward)

    def loss(
        self,
        predictor: Callable[[], Predict],
        people: Tensor,
        texts: Sequence[str],
        points: Points,
        key: StepKey,
    ) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of pictures drawn for the rows of ``key`` (a mean over them), and figures for the log.

        Args:
            predictor: makes the model as a function of noisy latents, by the weights that are in it then.
            people: unit embeddings of whom to draw, by ``reader``, [B, D]; zeros for nobody.
            texts: the prompts.
            points: where the faces are to be, [5, 2] pixels each; None finds them in the pictures.
        """
        config = self.config
        first = config.steps - max(1, round(config.late * config.steps))
        drawn = self._draw(predictor, key, people.device, first)
        # What a picture cannot hold must not pay.
        pictures = self.decode(drawn.estimate()).clamp(-1, 1)
        wanted = Wanted(people, texts, find_faces(pictures) if points is None else points)
        similarity, rows = self.similarity(pictures, wanted), wanted.faces()
        loss = config.weight * (len(rows) - similarity.sum()) / len(pictures)
        figures = {"faces": len(rows) / len(pictures)}
        if rows:
            figures["reward"] = float(similarity[rows].mean().detach())
        for name, (weight, reward) in self.others.items():
            value = reward(pictures, wanted).mean()
            loss = loss - weight * value
            figures[name] = float(value.detach())
        if config.guard:
            moved = (drawn.prediction - self._at_start(predictor, drawn)).square().mean()
            loss = loss + config.guard * moved
            figures["moved"] = float(moved.detach())
        return loss, figures

    @torch.no_grad()
    def look(self, predictor: Callable[[], Predict], people: Tensor, points: Points, key: StepKey) -> Tensor:
        """What ``stop_on`` reads in pictures drawn to the end without guidance, from the noise of ``key``.

        ``people`` [B, D] is how it sees those who are drawn. Returns unit embeddings float32 [B, D], zeros
        where there is no face.
        """
        assert self.witness is not None
        drawn = self._draw(predictor, key, people.device, self.config.steps - 1)
        pictures = self.decode(drawn.estimate()).clamp(-1, 1)
        places = find_faces(pictures) if points is None else points
        return self.witness.where_found(pictures, places, people.shape[1])

    def _draw(
        self, predictor: Callable[[], Predict], key: StepKey, device: torch.device, first: int
    ) -> Drawn:
        steps = self.config.steps
        return draw(predictor(), self.shape, key, device, self.schedule, steps=steps, first=first)

    @torch.no_grad()
    def _at_start(self, predictor: Callable[[], Predict], drawn: Drawn) -> Tensor:
        """What the weights at the start predict for the same noisy latents."""
        start = self._start = {name: value.to(drawn.noisy.device) for name, value in self._start.items()}

        def predict() -> Tensor:
            return predictor()(drawn.noisy, drawn.timesteps)

        found: Any = functional_call(self._calling, start, (predict,))
        return found


def look_keys(count: int) -> list[StepKey]:
    """Names the choices and the noise of ``count`` pictures to look at, some at a time: a step that no run
    reaches."""
    rows = [range(first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)]
    return [StepKey(0, 2**31 - 1, part, count) for part in rows]


def same_network(one: str, other: str) -> bool:
    """Whether two names of networks mean one."""
    return one == other or Path(one).resolve() == Path(other).resolve()
