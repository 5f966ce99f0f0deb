"""Low-rank changes of a model's linear layers, added by hooks for the length of a scope.

What is added is ``scale * up(down(x))``: a LoRA (arXiv:2106.09685) that leaves the layer itself untouched, so
that it can be taken out without a trace, beside whatever else is attached to the layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from idpersona.errors import SeamError
from idpersona.seams.call import Call, call_scope


@dataclass
class LowRankBranch:
    """A change of one layer.

    Attributes:
        layer: name of the linear layer in the model.
        down, up: x [..., in] -> [..., rank] -> [..., out].
        scale: factor.
        start, end: the window of steps, as fractions.
    """

    layer: str
    down: nn.Module
    up: nn.Module
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    active: bool = False


def _hook(branch: LowRankBranch) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def add(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not branch.active:
            return output
        weight = next(branch.down.parameters())
        change = branch.up(branch.down(args[0].to(weight.dtype)))
        return output + branch.scale * change.to(output.dtype)

    return add


@contextlib.contextmanager
def low_rank_scope(
    model: nn.Module, branches: Sequence[LowRankBranch], *, call: Call | None = None, pipe: Any = None
) -> Iterator[None]:
    """Add ``branches`` to the layers of ``model`` for the length of the scope.

    Arguments as for :func:`~idpersona.seams.cross.cross_scope`.

    Raises:
        SeamError: a branch names a layer that the model does not have.
    """
    inner: nn.Module = getattr(model, "_orig_mod", model)
    with contextlib.ExitStack() as stack:
        shared = call or stack.enter_context(call_scope(model, pipe))

        def before(_module: nn.Module, _args: Any) -> None:
            for branch in branches:
                branch.active = not shared.quiet and shared.within(branch.start, branch.end)

        for branch in branches:
            try:
                layer = inner.get_submodule(branch.layer)
            except AttributeError:
                raise SeamError(f"{type(inner).__name__} has no layer {branch.layer}") from None
            # First of all hooks: who takes the layer's output, as a host of branches does, gets it changed.
            stack.callback(layer.register_forward_hook(_hook(branch), prepend=True).remove)
        stack.callback(model.register_forward_pre_hook(before).remove)
        yield
