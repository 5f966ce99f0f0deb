"""The seam ``latent``: the scheduler of a pipeline, what is done to the latents after each of its steps, and
what the unconditional rows are told at each.

Where a call starts is its own argument ``latents``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from idpersona.errors import SeamError
from idpersona.seams.call import Call, call_scope


@dataclass(frozen=True)
class Told:
    """What rows of the model are told: ``text`` [rows, tokens, dim], and ``pooled`` [rows, dim] with SDXL."""

    text: Tensor
    pooled: Tensor | None = None


class Steering(Protocol):
    """What an inversion gives to the seam; every method may leave things as they are."""

    def unconditional(self, call: Call) -> Told | None:
        """What the unconditional rows of this pass are told, one row for each or one for all."""
        ...

    def predicted(self, prediction: Tensor, call: Call) -> Tensor:
        """The model's prediction for all rows, as the pipeline shall get it."""
        ...

    def stepped(self, latents: Tensor, step: int, steps: int) -> Tensor:
        """The latents after step number ``step`` (from 0) of ``steps``, as they go on."""
        ...


class _Stepping:
    """A scheduler that lets ``steering`` correct what it returns; a copy of it is a copy of the plain one."""

    def __init__(self, scheduler: Any, steering: Steering):
        self._scheduler, self._steering, self._done = scheduler, steering, 0

        # Pipelines look up in its signature what else a scheduler's step takes.
        @functools.wraps(scheduler.step)
        def step(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        self.step = step

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        result = self._scheduler.step(*args, **kwargs)
        previous = result[0] if isinstance(result, tuple) else result.prev_sample
        latents = self._steering.stepped(previous, self._done, len(self._scheduler.timesteps))
        self._done += 1
        if isinstance(result, tuple):
            return (latents, *result[1:])
        result.prev_sample = latents
        return result

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self._scheduler.set_timesteps(*args, **kwargs)
        self._done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._scheduler, memo)


_steered: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextlib.contextmanager
def latent_scope(pipe: Any, scheduler: Any, steering: Steering) -> Iterator[None]:
    """Run ``pipe`` with ``scheduler``, steered, for the length of the scope; its own one is back afterwards.

    Raises:
        SeamError: another scope steers this pipeline, or somebody else replaced its scheduler meanwhile; that
            one stays in place.
    """
    model = pipe.unet
    if model in _steered:
        raise SeamError("the latents of this pipeline are steered already: leave that scope first")
    inner = getattr(model, "_orig_mod", model)
    names = list(inspect.signature(inner.forward).parameters)
    with contextlib.ExitStack() as stack:

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            told = None if call.quiet or not call.guided else steering.unconditional(call)
            if told is None:
                return None
            inputs = dict(zip(names, args, strict=False)) | kwargs
            text = _over_first_half(inputs["encoder_hidden_states"], told.text)
            changed: dict[str, Any] = {"encoder_hidden_states": text}
            added = inputs.get("added_cond_kwargs")
            if told.pooled is not None and added:
                pooled = _over_first_half(added["text_embeds"], told.pooled)
                changed["added_cond_kwargs"] = {**added, "text_embeds": pooled}
            return (), inputs | changed

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            if call.quiet:
                return None
            if isinstance(output, tuple):
                return (steering.predicted(output[0], call), *output[1:])
            output.sample = steering.predicted(output.sample, call)
            return output

        own, stepping = pipe.scheduler, _Stepping(scheduler, steering)
        _steered.add(model)
        stack.callback(_steered.discard, model)
        # Before adapters, of which IdentityNet reads what the rows are told.
        told_first = model.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
        stack.callback(told_first.remove)
        call = stack.enter_context(call_scope(model, pipe, first=True))
        stack.callback(model.register_forward_hook(after).remove)
        pipe.scheduler = stepping
        try:
            yield
        finally:
            if pipe.scheduler is not stepping:
                raise SeamError("the pipeline's scheduler was replaced meanwhile; it stays in place")
            pipe.scheduler = own


def _over_first_half(rows: Tensor, told: Tensor) -> Tensor:
    half = rows.shape[0] // 2
    if half % told.shape[0] or told.shape[1:] != rows.shape[1:]:
        raise SeamError(
            f"unconditional rows of {list(told.shape)} do not fit {half} rows of {list(rows.shape[1:])}"
        )
    first = told.to(rows).repeat_interleave(half // told.shape[0], dim=0)
    return torch.cat([first, rows[half:]])
