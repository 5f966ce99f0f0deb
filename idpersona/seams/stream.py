"""A second stream: at every step the model also denoises other latents, whose keys and values can be read.

The stream starts from the same noise, has a scheduler state of its own, and is what the pipeline would draw
without any adapter; residuals of the pipeline's own ControlNets are those of the picture. It costs one more
pass of the model for each step that needs it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idpersona.errors import SeamError
from idpersona.seams.call import Call, is_quiet, quiet_pass


class SecondStream:
    """The stream, as a source for :class:`~idpersona.seams.self_attention.MixedBranch`.

    Args:
        pipe: a diffusers pipeline with ``unet``, ``scheduler`` and ``guidance_scale``.
        end: of the window of steps in which it is read, as a fraction; it runs from the first step on.

    Schedulers that add noise at every step get noise of the stream's own, the same in every call. Options of
    the pipeline's call that go to the scheduler (``eta``) do not reach the stream.
    """

    def __init__(self, pipe: Any, *, end: float = 1.0):
        self.pipe, self.end = pipe, end
        self.call = Call(pipe)
        self.recording = False
        self.latents: Tensor | None = None
        self._run = 0
        self._scheduler: Any = None
        self._generator: torch.Generator | None = None

    def rows(self, call: Call) -> None:
        return None

    @torch.no_grad()
    def advance(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        """Take the step that belongs to a pass of ``model`` with ``inputs``, recording what passes by."""
        call, sample, timestep = self.call, inputs["sample"], inputs["timestep"]
        call.begin(sample, timestep)
        step, steps = call.step()
        if (step + 1) / steps > self.end and self.end < 1.0:
            return
        channels = self.pipe.vae.config["latent_channels"]
        if call.run != self._run or self.latents is None:
            self._begin(sample[:, :channels], timestep)
        scheduler: Any = self._scheduler
        latents: Any = self.latents
        scaled = scheduler.scale_model_input(
            torch.cat([latents, latents]) if call.guided else latents, timestep
        )
        self.recording = True
        try:
            with quiet_pass(model):
                given = torch.cat([scaled.to(sample.dtype), sample[:, channels:]], dim=1)
                # diffusers' models empty the lists of residuals that they are given.
                rest = {
                    name: list(value) if isinstance(value, list) else value
                    for name, value in inputs.items()
                    if name not in ("sample", "timestep")
                }
                predicted = model(given, timestep, **rest | {"return_dict": False})[0]
        finally:
            self.recording = False
        if call.guided:
            predicted = self._guided(*predicted.chunk(2))
        step_options = {"generator": self._generator} if self._generator is not None else {}
        self.latents = scheduler.step(predicted, timestep, latents, **step_options, return_dict=False)[0]

    def _begin(self, sample: Tensor, timestep: Any) -> None:
        self._run = self.call.run
        self._scheduler = copy.deepcopy(self.pipe.scheduler)
        noise = sample.chunk(2)[1] if self.call.guided else sample
        # What the pipeline gives its model is scaled by a factor for the step; the state itself is not.
        probe = copy.deepcopy(self._scheduler)
        factor = probe.scale_model_input(torch.ones(1, 1, 1, 1, device=noise.device), timestep)
        self.latents = noise / factor.to(noise.dtype)
        takes = inspect.signature(self._scheduler.step).parameters
        self._generator = torch.Generator(noise.device).manual_seed(0) if "generator" in takes else None

    def _guided(self, unconditional: Tensor, conditional: Tensor) -> Tensor:
        guided = unconditional + self.pipe.guidance_scale * (conditional - unconditional)
        rescale = float(getattr(self.pipe, "guidance_rescale", 0.0) or 0.0)
        if not rescale:
            return guided
        # Lin et al., arXiv:2305.08891, section 3.4: the spread of the conditional prediction is kept.
        axes = tuple(range(1, guided.ndim))
        level = guided * (conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        return rescale * level + (1 - rescale) * guided

    def release(self) -> None:
        self.latents = self._scheduler = self._generator = None


_streamed: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextlib.contextmanager
def stream_scope(model: nn.Module, streams: Sequence[SecondStream]) -> Iterator[None]:
    """Run ``streams`` beside every pass of ``model`` for the length of the scope.

    Raises:
        SeamError: the pipeline does not tell its guidance, without which no second stream can be drawn, or
            another scope's streams run beside the model already.
    """
    if model in _streamed:
        raise SeamError(
            "a second stream runs beside this model already, and a picture can read one only: attach several "
            "people together, {person: region, …}, or switch the stream of one off, scale={'mixed': 0, …}"
        )
    inner = getattr(model, "_orig_mod", model)
    names = list(inspect.signature(inner.forward).parameters)
    for stream in streams:
        kind = type(stream.pipe)
        if not hasattr(kind, "guidance_scale"):
            raise SeamError(f"{kind.__name__} does not tell its guidance_scale, which a second stream needs")
        blends = "mask_image" in inspect.signature(kind.__call__).parameters
        if blends and inner.config["in_channels"] == stream.pipe.vae.config["latent_channels"]:  # type: ignore[index]
            raise SeamError(
                f"{kind.__name__} puts the known picture back after every step, which a second stream cannot "
                "follow: do without it, scale={'mixed': 0, …}, or take a base made for inpainting"
            )

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_quiet(model):
            return
        inputs = dict(zip(names, args, strict=False)) | kwargs
        for stream in streams:
            stream.advance(module, inputs)

    with contextlib.ExitStack() as stack:
        _streamed.add(model)
        stack.callback(_streamed.discard, model)
        for stream in streams:
            stack.callback(stream.release)
        # First of all hooks: the pass inside runs the others, which then see the pipeline's own pass.
        handle = model.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
        stack.callback(handle.remove)
        yield
