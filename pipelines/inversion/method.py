"""What every inversion is: a way from a photo's latents to a record, and one back from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from torch import Tensor

from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.photos import canvas_of
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.pipelines.inversion.schedule import ddim
from idpersona.pipelines.inversion.steering import Plain
from idpersona.seams.latent import Steering, Told


@dataclass(frozen=True)
class Task:
    """What is inverted.

    Attributes:
        denoise: the base's U-Net.
        scheduler: DDIM, its timesteps set.
        photo: latents float32 [B, C, h, w].
        source: what the rows are told, the photos' prompts.
        empty: what unconditional rows are told.
        guidance: scale that the photos are edited with.
        on_step: called after every step; there are T of them in each of the method's ``turns``.
        pictures: makes the B photos as RGB pictures, cut and scaled.
    """

    denoise: Denoiser
    scheduler: DDIMScheduler
    photo: Tensor
    source: Told
    empty: Told
    guidance: float
    on_step: Callable[[], None]
    pictures: Callable[[], list[Image.Image]]


class Method(ABC):
    """An inversion by name; its fields are its options.

    Attributes:
        turns: how often the method goes through all steps.
        guidance: scale that its photos are usually edited with.
        calls: how often a pipeline calls back in each step of the way back.
        free_negative: nothing rests on the negative prompt.
        free_guidance: it was found without guidance, and may be edited with any.
        takes_control: an edit is drawn beside its photo, whose attention it may take over. Otherwise it is
            drawn by concepts (:mod:`idpersona.pipelines.editing.concepts`), and only :meth:`invert` counts.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    turns: ClassVar[int] = 1
    guidance: ClassVar[float] = 7.5
    calls: ClassVar[int] = 1
    free_negative: ClassVar[bool] = False
    free_guidance: ClassVar[bool] = False
    takes_control: ClassVar[bool] = True

    def refuse(self, pipe: Any) -> None:  # noqa: B027 - most have nothing to refuse
        """Raise BadInput where this method cannot work on ``pipe``."""

    def check(self, record: Inversion) -> None:
        """Raise InversionError where a record is not what this method makes."""
        if record.latents.shape[1] != record.photos:
            raise InversionError(
                f"an inversion by {self.name} has latents for {record.photos} photos, not "
                f"{record.latents.shape[1]}"
            )

    def canvas(self, pipe: Any, size: tuple[int, int] | None) -> tuple[int, int]:
        """Width and height that photos get, as :func:`~idpersona.pipelines.inversion.photos.canvas_of`."""
        return canvas_of(pipe, size)

    @abstractmethod
    def invert(self, task: Task) -> Mapping[str, Tensor]:
        """``latents``, and perhaps ``unconditional`` and ``noises``, of an :class:`Inversion`."""

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        """What leads guided drawing back to the photos; ``source`` makes what they are told, if need be."""
        return Plain()

    def scheduler(self, record: Inversion, device: Any, each: int) -> Any:
        """What steps the latents on the way back, ``each`` rows for a photo; its timesteps not yet set."""
        return ddim(record.scheduler, record.steps, device)

    def start(self, record: Inversion) -> Tensor:
        """Latents [B, C, h, w] from which drawing starts."""
        return record.latents[-1]
