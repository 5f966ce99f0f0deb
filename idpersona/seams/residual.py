"""The seam ``residual``: ControlNet-type residuals with their own context, summed with those there."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import Call, call_scope
from idpersona.seams.mask import MaskFor, mask_like, mask_of
from idpersona.seams.scale import check_scale, check_window

Residuals = tuple[list[Tensor], Tensor]
DOWN, MID = "down_block_additional_residuals", "mid_block_additional_residual"


class ResidualBranch(Protocol):
    """What an adapter gives to the seam."""

    def residuals(self, inputs: dict[str, Any], call: Call) -> Residuals | None:
        """Residuals for the denoiser's ``inputs`` (its forward arguments by name), or None for this step."""
        ...

    def release(self) -> None:
        """Called when the scope ends: let go of what was cached."""
        ...


class ControlNetBranch:
    """A ControlNet beside the denoiser, with identity tokens instead of the text where they are given.

    Args:
        net: a ``diffusers.ControlNetModel``.
        image: condition picture [people or 1, 3, H, W] in 0..1, or a function that gives it for a
            :class:`Call` (the canvas is known only then); asked once per canvas size.
        tokens: [people, n, dim] context of the net; None gives it the text, as a plain ControlNet has it.
        unconditional: [1, n, dim], the context of unconditional rows.
        scale: factor on all residuals; 0 skips the net.
        mask: [people or 1, 1, H, W] in 0..1 over the canvas, or a function that gives it for a :class:`Call`.
        start, end: the window of steps, as fractions.
        guess_mode: the net sees the conditional rows only and the others get no residuals.
        together: all people are in every picture, each in its own mask, before one condition picture. The net
            runs for all of them in one batch.
    """

    def __init__(
        self,
        net: nn.Module,
        image: Tensor | Callable[[Call], Tensor],
        *,
        tokens: Tensor | None = None,
        unconditional: Tensor | None = None,
        scale: float = 1.0,
        mask: Tensor | MaskFor | None = None,
        start: float = 0.0,
        end: float = 1.0,
        guess_mode: bool = False,
        together: bool = False,
    ):
        check_window(start, end)
        self.net, self.image, self.tokens, self.unconditional = net, image, tokens, unconditional
        self.scale = check_scale(scale)
        self.mask, self.start, self.end, self.guess_mode = mask, start, end, guess_mode
        self._picture: tuple[tuple[int, int], Tensor] | None = None
        self.together = together
        if isinstance(mask, Tensor) and tokens is not None and mask.shape[0] not in (1, tokens.shape[0]):
            raise BadInput(f"{mask.shape[0]} masks for {tokens.shape[0]} identities")

    def residuals(self, inputs: dict[str, Any], call: Call) -> Residuals | None:
        if self.scale == 0.0 or call.quiet or not call.within(self.start, self.end):
            return None
        half = self.guess_mode and call.guided
        times = len(self.tokens) if self.together and self.tokens is not None else 1

        def part(x: Tensor) -> Tensor:
            own = x.chunk(2)[1] if half else x
            return own if times == 1 else own.repeat(times, *[1] * (own.ndim - 1))

        net: Any = self.net
        kind = net.dtype
        sample = part(inputs["sample"])[:, : net.config["in_channels"]]
        text = inputs["encoder_hidden_states"]
        time = inputs["timestep"]
        # SDXL's pooled text and sizes; an IP-Adapter's picture embeddings, a list, are the denoiser's alone.
        added = {
            name: part(value).to(kind)
            for name, value in (inputs.get("added_cond_kwargs") or {}).items()
            if isinstance(value, Tensor)
        }
        down, mid = net(
            sample.to(kind),
            part(time) if isinstance(time, Tensor) and time.numel() > 1 else time,
            encoder_hidden_states=(part(text) if self.tokens is None else self._context(call, half)).to(kind),
            controlnet_cond=self._condition(call, half).to(sample.device, kind),
            conditioning_scale=self.scale,
            guess_mode=self.guess_mode,
            added_cond_kwargs=added,
            return_dict=False,
        )
        found = [x.to(sample.dtype) for x in (*down, mid)]
        mask = mask_of(self.mask, call)
        if mask is not None:
            if self.together:
                rows = [person for person in range(times) for _ in range(len(sample) // times)]
            else:
                rows = self._rows(call, mask.shape[0], half)
            found = [x * mask_like(mask, x, rows) for x in found]
        if times > 1:
            found = [x.unflatten(0, (times, -1)).sum(dim=0) for x in found]
        if half:
            found = [torch.cat([torch.zeros_like(x), x]) for x in found]
        return found[:-1], found[-1]

    def _rows(self, call: Call, items: int, half: bool, *, unconditional: bool = False) -> list[int]:
        rows = call.row_index(items, unconditional=unconditional)
        return rows[call.rows // 2 :] if half else rows

    def _context(self, call: Call, half: bool) -> Tensor:
        tokens = self.tokens
        if tokens is None:
            raise SeamError("a net without tokens takes the text")
        if self.together:
            return torch.cat([self._rows_of(call, one[None], half) for one in tokens])
        return self._rows_of(call, tokens, half)

    def _rows_of(self, call: Call, tokens: Tensor, half: bool) -> Tensor:
        split = call.guided and not call.alike and self.unconditional is not None
        context = torch.cat([self.unconditional.to(tokens), tokens]) if split else tokens  # type: ignore[union-attr]
        return context[self._rows(call, tokens.shape[0], half, unconditional=split)]

    def _condition(self, call: Call, half: bool) -> Tensor:
        if isinstance(self.image, Tensor):
            picture = self.image
        else:
            if self._picture is None or self._picture[0] != call.size:
                self._picture = (call.size, self.image(call))
            picture = self._picture[1]
        picture = picture[self._rows(call, picture.shape[0], half)]
        return (
            picture.repeat(len(self.tokens), 1, 1, 1)
            if self.together and self.tokens is not None
            else picture
        )

    def release(self) -> None:
        self._picture = None


def _sum(given: dict[str, Any], found: Residuals) -> dict[str, Any]:
    down, mid = found
    there, middle = given.get(DOWN), given.get(MID)
    if there is not None and middle is None:
        # Without a middle one they are a T2I-Adapter's in the model's older spelling: pass them on as such.
        return {"down_intrablock_additional_residuals": there, DOWN: tuple(down), MID: mid}
    if there is not None:
        if len(there) != len(down):
            raise SeamError(f"{len(down)} residuals cannot be added to the {len(there)} that are there")
        down = [x + y for x, y in zip(there, down, strict=True)]
    return {DOWN: tuple(down), MID: mid if middle is None else middle + mid}


@contextlib.contextmanager
def residual_scope(
    model: nn.Module, branches: Sequence[ResidualBranch], *, call: Call | None = None, pipe: Any = None
) -> Iterator[None]:
    """Add the residuals of ``branches`` to every forward pass of ``model`` for the length of the scope.

    They are summed with residuals that the pipeline itself passes in. ``call`` and ``pipe`` as for
    :func:`idpersona.seams.cross.cross_scope`.

    Raises:
        SeamError: the model takes no such residuals, or their number differs from those there.
    """
    inner = getattr(model, "_orig_mod", model)
    names = list(inspect.signature(inner.forward).parameters)
    if DOWN not in names or MID not in names:
        raise SeamError(f"{type(inner).__name__} takes no ControlNet residuals")
    limit = names.index(DOWN)
    with contextlib.ExitStack() as stack:
        shared = call or stack.enter_context(call_scope(model, pipe))
        for branch in branches:
            stack.callback(branch.release)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            inputs = dict(zip(names, args, strict=False)) | kwargs
            extra = dict(zip(names[limit:], args[limit:], strict=False))
            for branch in branches:
                found = branch.residuals(inputs, shared)
                if found is not None:
                    extra |= _sum(kwargs | extra, found)
            return args[:limit], kwargs | extra

        stack.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield
