"""Null-text inversion (arXiv:2211.09794): what unconditional rows are told is optimised, step by step, so
that guided drawing comes back to the photo.

The paper takes up to ten steps of Adam at every timestep. What is minimised is a sum of squares of a nearly
linear function, so that here a gradient step gets its length from what the last one did, and the steps taken
at a timestep are recombined by least squares (nonlinear GMRES, Washio and Oosterlee 1997).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.inversion.ddim import pivots
from idpersona.pipelines.inversion.method import Method, Task
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.pipelines.inversion.steering import Optimised
from idpersona.seams.latent import Steering, Told

STOP, STOP_GROWTH = 1e-5, 2e-5
"""Published early stop: timestep i is done when its mean squared error is below STOP + i * STOP_GROWTH."""
_RIDGE = 1e-3
_PROBE = 1e-2
_MOST = 0.1
"""Size of a step, at most, relative to the embeddings of a text: further off, nothing is linear any more."""


@dataclass(frozen=True)
class NullText(Method):
    """Pivotal optimisation of the unconditional embeddings, warm-started from one timestep to the next.

    Attributes:
        inner: gradient steps at each timestep, at most; published, of Adam: 10.
        stop: go on to the next timestep when the error is as small as the paper asks.
    """

    inner: int = 1
    stop: bool = True
    name: ClassVar[str] = "null-text"
    paper: ClassVar[str] = "arXiv:2211.09794"
    turns: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise BadInput(f"null-text takes at least 1 inner step, got {self.inner}")

    def refuse(self, pipe: Any) -> None:
        if pipe.unet.dtype is torch.float16:
            raise BadInput(
                "null-text cannot be optimised in float16: load the base in float32 or bfloat16 "
                "(--dtype fp32)"
            )

    def check(self, record: Inversion) -> None:
        super().check(record)
        if record.unconditional is None:
            raise InversionError("an inversion by null-text holds embeddings, and this has none")

    @torch.no_grad()
    def invert(self, task: Task) -> Mapping[str, Tensor]:
        if task.guidance <= 1:
            raise BadInput(
                "null-text needs a guidance above 1: without guidance the unconditional rows say nothing"
            )
        way = pivots(task)
        steps, latents = len(way) - 1, way[-1]
        embedding, search, found = task.empty.text, _Search(), []
        for i, timestep in enumerate(task.scheduler.timesteps):
            told = task.denoise(latents, timestep, task.source)
            wanted = _Wanted(task, latents, timestep, told, way[steps - 1 - i])
            limit = STOP + i * STOP_GROWTH if self.stop else 0.0
            embedding, free = search(task, latents, timestep, embedding, wanted, self.inner, limit)
            found.append(embedding)
            latents = wanted.stepped(free)
            task.on_step()
        return {"latents": way, "unconditional": torch.stack(found)}

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Optimised(record)


class _Wanted:
    """The unconditional prediction that leads one timestep to its pivot."""

    def __init__(self, task: Task, latents: Tensor, timestep: Tensor, told: Tensor, pivot: Tensor):
        scheduler, w = task.scheduler, task.guidance
        # A DDIM step is linear in the prediction: ``start + slope * prediction``.
        self.start, more = (
            scheduler.step(torch.full_like(latents, value), int(timestep), latents, return_dict=False)[0]
            for value in (0.0, 1.0)
        )
        self.slope = float((more - self.start).mean())
        self.told, self.guidance = told, w
        self.free = (w * told - (pivot - self.start) / self.slope) / (w - 1)

    def errors(self, residual: Tensor) -> Tensor:
        """Mean squared error of the latents after the step, float32 [B]."""
        return (self.slope * (self.guidance - 1)) ** 2 * residual.square().flatten(1).mean(dim=1)

    def stepped(self, free: Tensor) -> Tensor:
        return self.start + self.slope * (free + self.guidance * (self.told - free))


class _Search:
    """Least squares in the embeddings, each photo of the batch for itself; keeps the length of steps."""

    def __init__(self) -> None:
        self.length: Tensor | None = None

    def __call__(
        self,
        task: Task,
        latents: Tensor,
        timestep: Tensor,
        embedding: Tensor,
        wanted: _Wanted,
        inner: int,
        limit: float,
    ) -> tuple[Tensor, Tensor]:
        """The best embeddings that were tried, and the prediction that they give."""
        taken = _Taken()
        best, best_free, least = embedding, latents, None
        for n in range(inner + 1):
            with torch.set_grad_enabled(n < inner):
                point = embedding.detach().requires_grad_(n < inner)
                free = task.denoise(latents, timestep, Told(point, task.empty.pooled))
            residual = free.detach() - wanted.free
            self.length = taken.learn(residual, self.length)
            errors = wanted.errors(residual)
            better = torch.ones_like(errors, dtype=torch.bool) if least is None else errors < least
            best = torch.where(better[:, None, None], point.detach(), best)
            best_free = torch.where(better[:, None, None, None], free.detach(), best_free)
            least = errors if least is None else torch.minimum(errors, least)
            # Where a step made things worse, the next timestep begins from before it.
            going = better & (errors >= limit)
            if n == inner or not bool(going.any()):
                break
            move, answer = taken.recombined(residual, embedding)
            (gradient,) = torch.autograd.grad(free, point, residual + answer)
            task.denoise.passes += 2
            if self.length is None:
                self.length = self._probed(task, latents, timestep, best, gradient, residual, free.detach())
            step = move - self.length * gradient
            # SDXL's empty prompt is all zeros: the size of embeddings is that of the photos' own.
            share = going * (_MOST * _rms(task.source.text) / _rms(step).clamp(min=1e-20)).clamp(max=1)
            embedding = best + share[:, None, None] * step
            taken.go(
                residual, share[:, None, None, None] * answer, gradient, share[:, None, None] * self.length
            )
        return best, best_free

    def _probed(
        self,
        task: Task,
        latents: Tensor,
        timestep: Tensor,
        point: Tensor,
        gradient: Tensor,
        residual: Tensor,
        free: Tensor,
    ) -> Tensor:
        """The best length along the first gradient of all, from one more pass."""
        size = _PROBE * _rms(task.source.text) / _rms(gradient).clamp(min=1e-20)
        moved = task.denoise(
            latents, timestep, Told(point + size[:, None, None] * gradient, task.empty.pooled)
        )
        return _best((moved - free) / size[:, None, None, None], residual).clamp(min=0)


class _Taken:
    """Steps taken at one timestep, and how the prediction answered."""

    def __init__(self) -> None:
        self.moves: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def go(self, residual: Tensor, answer: Tensor, gradient: Tensor, length: Tensor) -> None:
        """A step of ``length`` against ``gradient``, and one whose ``answer`` is known, from ``residual``."""
        self.last = (residual, answer, gradient, length)

    def learn(self, residual: Tensor, length: Tensor | None) -> Tensor | None:
        """Take in what the last step led to; the best length for it is the next one's."""
        if self.last is None:
            return length
        before, answer, gradient, taken = self.last
        answered = residual - before - answer
        self.moves.append(-taken * gradient)
        self.answers.append(answered)
        still = ~(taken * gradient).flatten(1).any(dim=1)[:, None, None]
        best = _best(-answered / torch.where(still, 1.0, taken)[..., None], before + answer)
        assert length is not None  # a step was taken
        # A step that went the wrong way tells no length: half of it, then.
        return torch.where(still, length, torch.where(best > 0, best, taken / 2))

    def recombined(self, residual: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The combination of the steps so far that would leave the least, and its answer."""
        if not self.moves:
            return torch.zeros_like(like), torch.zeros_like(residual)
        answers = torch.stack([a.flatten(1) for a in self.answers], dim=2)
        square = answers.mT @ answers
        size = square.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-20)
        ridge = _RIDGE * size[:, None, None] * torch.eye(square.shape[1]).to(square)
        shares = torch.linalg.solve(square + ridge, -(answers.mT @ residual.flatten(1)[..., None]))
        move = torch.zeros_like(like)
        for share, one in zip(shares.unbind(1), self.moves, strict=True):
            move = move + share[:, :, None] * one
        return move, (answers @ shares).squeeze(2).view_as(residual)


def _best(slope: Tensor, residual: Tensor) -> Tensor:
    """Length [B, 1, 1] of the step against the gradient after which the least of ``residual`` is left.

    ``slope`` [B, C, h, w] is how the prediction answers to one unit along the gradient.
    """
    along = (slope * residual).flatten(1).sum(dim=1)
    return (along / slope.square().flatten(1).sum(dim=1).clamp(min=1e-20))[:, None, None]


def _rms(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(dim=1).sqrt()
