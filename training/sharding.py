"""Weights of which every process holds a part only (FSDP 2): putting them together and cutting them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(module: nn.Module) -> bool:
    """Whether processes hold parts of its weights only."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole(value: Any, *, hold: bool = True) -> Any:
    """``value`` (a state, however deep) with its tensors put together; all processes must call.

    Where ``hold`` is false nothing is kept of them, None stands in their place. What is whole already is
    handed on as it is.
    """
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if hold else None
    if isinstance(value, Mapping):
        return {name: whole(part, hold=hold) for name, part in value.items()}
    if isinstance(value, list):
        return [whole(part, hold=hold) for part in value]
    return value


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole ``value``, cut as ``like`` is; all processes hold the same ``value``."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    moved = value.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def parts_of(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`part_of` for each entry of a state; an entry that ``like`` does not have stays as it is."""
    return {name: part_of(value, like.get(name, value)) for name, value in state.items()}


@contextmanager
def whole_weights(module: nn.Module, *, hold: bool) -> Iterator[None]:
    """A scope in which ``module`` has whole weights, to be written; nothing happens where they are whole.

    All processes must enter; only where ``hold`` is true are the whole weights there, on the CPU. Nothing can
    be run in it.
    """
    kept: list[tuple[nn.Module, str, Any]] = []
    try:
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                full = whole(parameter.detach(), hold=hold) if isinstance(parameter, DTensor) else None
                if full is not None:
                    kept.append((part, name, parameter))
                    setattr(part, name, nn.Parameter(full, parameter.requires_grad))
        yield
    finally:
        for part, name, parameter in kept:
            setattr(part, name, parameter)
