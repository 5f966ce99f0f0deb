"""What one forward pass of the denoiser needs to know: rows, guidance, latent size and step.

A seam never guesses. Which rows are unconditional is read from the pipeline's own
``do_classifier_free_guidance``; the step is found in the scheduler's own list of timesteps.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from idpersona.errors import SeamError, first_line


@dataclass
class Call:
    """State of the forward pass under way; every seam of one scope shares one object.

    Attributes:
        rows: batch rows of this pass (the unconditional half included).
        guided: the first half of the rows is unconditional (classifier-free guidance in one batch).
        size: latent height and width.
        device: of the latents.
        run: grows by one with every new pipeline call; caches that must not outlive a call compare it.
        quiet: this pass is one that a seam makes for itself (:func:`quiet_pass`); branches stay out of it.
        alike: unconditional rows see the same people as the others (:func:`alike`).
    """

    pipe: Any = None
    rows: int = 0
    guided: bool = False
    size: tuple[int, int] = (0, 0)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    run: int = 0
    quiet: bool = False
    alike: bool = False
    _timestep: Any = None
    _timesteps: Tensor | None = None
    _values: list[float] = field(default_factory=list)
    _first: int | None = None
    _last: int = -1
    _now: int | None = None

    def begin(self, sample: Tensor, timestep: Any) -> None:
        """Take over the inputs of a new forward pass."""
        if sample.ndim != 4:
            raise SeamError(
                f"latents are [rows, channels, height, width], not {list(sample.shape)}: video pipelines are "
                "not supported"
            )
        self.rows = sample.shape[0]
        self.size = (sample.shape[-2], sample.shape[-1])
        self.device = sample.device
        self._timestep, self._now = timestep, None
        if self.pipe is None:
            return
        try:
            self.guided = bool(self.pipe.do_classifier_free_guidance)
        except AttributeError as error:
            raise SeamError(
                f"this {type(self.pipe).__name__} has not been called, its model is run by something else: "
                f"attach to the pipeline that you call ({first_line(error)})"
            ) from error
        # Every pipeline call sets its timesteps anew, so a new tensor object means a new call.
        timesteps = self.pipe.scheduler.timesteps
        if timesteps is not self._timesteps:
            self._timesteps, self._values = timesteps, []
            self._first, self._last = None, -1
            self.run += 1

    def step(self) -> tuple[int, int]:
        """Index of this step and number of steps in the running pipeline call.

        Raises:
            SeamError: no pipeline is known, or the timestep is not one of its scheduler's.
        """
        if self.pipe is None or self._timesteps is None:
            raise SeamError(
                "a start/end window needs the pipeline: attach to a pipeline, not to a bare model"
            )
        if not self._values:
            self._values = [float(t) for t in self._timesteps.tolist()]
        if self._now is None:
            # Found once for each pass: asked again, a repeated timestep would count as the one after it.
            self._now = self._last = self._index()
            if self._first is None:
                self._first = self._now  # image-to-image starts inside the list
        first = self._first or 0
        left = len(self._values) - first
        return self._now - first, min(int(getattr(self.pipe, "_num_timesteps", None) or left), left)

    def _index(self) -> int:
        now = float(torch.as_tensor(self._timestep).flatten()[0])
        begin = getattr(self.pipe.scheduler, "begin_index", None)
        # Image-to-image begins inside the list, perhaps at the second of two equal timesteps.
        if self._last < 0 and begin is not None and self._values[begin : begin + 1] == [now]:
            return begin
        # Some schedulers list a timestep twice in a row: the one after the last is meant.
        following = self._last + 1
        if following < len(self._values) and self._values[following] == now:
            return following
        if now in self._values:
            return self._values.index(now)
        raise SeamError(f"timestep {now:g} is not in the scheduler's list; start/end cannot be applied")

    def within(self, start: float, end: float) -> bool:
        """Whether this step lies in the window; ``start`` and ``end`` are fractions of the steps."""
        if start <= 0.0 and end >= 1.0:
            return True
        step, steps = self.step()
        return not (step / steps < start or (step + 1) / steps > end)

    def row_index(self, items: int, *, unconditional: bool) -> list[int]:
        """Which of ``items`` belongs to each row; pictures of one prompt lie next to each other.

        With ``unconditional`` the items are preceded by one unconditional item (index 0), which the
        unconditional rows take.
        """
        conditional = self.rows // 2 if self.guided else self.rows
        if conditional % items or (self.guided and self.rows % 2):
            raise SeamError(
                f"{conditional} pictures cannot be shared among {items} identities: give one identity, or "
                "one for each prompt"
            )
        each = conditional // items
        shift = int(unconditional)
        own = [shift + row // each for row in range(conditional)]
        if not self.guided:
            return own
        return ([0] * conditional if unconditional else own) + own


_quiet: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_alike: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_watched: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def quiet_pass(model: nn.Module) -> Iterator[None]:
    """Passes of ``model`` inside are a seam's own: no branch of any adapter acts in them."""
    _quiet.add(model)
    try:
        yield
    finally:
        _quiet.discard(model)


def is_quiet(model: nn.Module) -> bool:
    """Whether a pass of ``model`` would be one inside :func:`quiet_pass`."""
    return model in _quiet


@contextlib.contextmanager
def alike(model: nn.Module) -> Iterator[None]:
    """Passes of ``model`` inside: unconditional rows see the people that the others see.

    Guidance then leads where the prompts differ, and no further towards anybody.
    """
    _alike.add(model)
    try:
        yield
    finally:
        _alike.discard(model)


@contextlib.contextmanager
def unguided(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Passes of the U-Net inside are a loop's own, by ``scheduler``; what is attached takes all rows of them
    for conditional ones. The pipeline's own scheduler is back afterwards."""
    own, guidance = pipe.scheduler, getattr(pipe, "_guidance_scale", None)
    pipe.scheduler, pipe._guidance_scale = scheduler, 1.0
    try:
        yield
    finally:
        pipe.scheduler = own
        if guidance is None:
            del pipe._guidance_scale
        else:
            pipe._guidance_scale = guidance


def is_attached(model: nn.Module) -> bool:
    """Whether any seam is in ``model`` just now."""
    return _watched.get(model, 0) > 0


def _check_pipeline(pipe: Any) -> None:
    kind = type(pipe)
    if not hasattr(kind, "do_classifier_free_guidance"):
        raise SeamError(
            f"{kind.__name__} does not tell which rows are unconditional (it has no "
            "do_classifier_free_guidance): use one of diffusers' own pipelines"
        )
    if any(hasattr(kind, name) for name in ("do_perturbed_attention_guidance", "image_guidance_scale")):
        raise SeamError(f"{kind.__name__} guides by three passes in one batch, which is not supported")
    if "Panorama" in kind.__name__:
        raise SeamError(f"{kind.__name__} mixes its rows view by view, which is not supported")


@contextlib.contextmanager
def call_scope(model: nn.Module, pipe: Any = None, *, first: bool = False) -> Iterator[Call]:
    """Keep a :class:`Call` up to date with every forward pass of ``model`` for the length of the scope.

    ``first`` does so before anything that was attached earlier sees the pass.
    ``pipe`` is a diffusers pipeline, or None for a bare model, all of whose rows are then conditional.
    """
    if pipe is not None:
        _check_pipeline(pipe)
    call = Call(pipe)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call.quiet, call.alike = model in _quiet, model in _alike
        if call.quiet:
            return
        sample = args[0] if args else kwargs["sample"]
        call.begin(sample, args[1] if len(args) > 1 else kwargs["timestep"])

    handle = model.register_forward_pre_hook(before, with_kwargs=True, prepend=first)
    _watched[model] = _watched.get(model, 0) + 1
    try:
        yield call
    finally:
        _watched[model] -= 1
        handle.remove()
