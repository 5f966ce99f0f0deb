"""Inversions without optimisation: DDIM's own way back, and what keeps guided drawing on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.inversion.ddim import pivots
from idpersona.pipelines.inversion.method import Method, Task
from idpersona.pipelines.inversion.record import Inversion
from idpersona.pipelines.inversion.steering import Negative, Pinned, Plain, Proximal
from idpersona.seams.latent import Steering, Told


@dataclass(frozen=True)
class Ddim(Method):
    """The noise alone; with guidance the way back drifts off the photo."""

    name: ClassVar[str] = "ddim"
    paper: ClassVar[str] = "arXiv:2010.02502"
    free_negative: ClassVar[bool] = True
    free_guidance: ClassVar[bool] = True

    def invert(self, task: Task) -> Mapping[str, Tensor]:
        return {"latents": pivots(task)}

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Plain()


@dataclass(frozen=True)
class Direct(Ddim):
    """The photo's row is put back onto its own way after every step."""

    name: ClassVar[str] = "direct"
    paper: ClassVar[str] = "arXiv:2310.01506"

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Pinned(record)


@dataclass(frozen=True)
class NegativePrompt(Ddim):
    """The source prompt is the negative prompt, so that guidance has no pull on the photo's row."""

    name: ClassVar[str] = "negative-prompt"
    paper: ClassVar[str] = "arXiv:2305.16807"
    free_negative: ClassVar[bool] = False

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Negative(source())


@dataclass(frozen=True)
class ProximalPrompt(Ddim):
    """As ``negative-prompt``, and small differences between the two prompts' predictions count nothing."""

    quantile: float = 0.75
    kind: Literal["l0", "l1"] = "l0"
    name: ClassVar[str] = "proximal"
    paper: ClassVar[str] = "arXiv:2306.05414"
    free_negative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.quantile < 1 or self.kind not in ("l0", "l1"):
            raise BadInput(
                "proximal takes a quantile from 0 to below 1 and kind l0 or l1, got "
                f"{self.quantile} and {self.kind}"
            )

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Proximal(source(), quantile=self.quantile, kind=self.kind)
