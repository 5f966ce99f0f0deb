"""IdentityNet inside a stock ControlNet pipeline: identity tokens take the place of the text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from idpersona.seams.call import Call
from idpersona.seams.mask import mask_like


@contextlib.contextmanager
def identity_context(
    net: nn.Module, pipe: Any, tokens: Tensor, unconditional: Tensor, mask: Tensor | None = None
) -> Iterator[None]:
    """Give ``net`` identity tokens as ``encoder_hidden_states`` for the length of the scope.

    Everything else that the pipeline passes on (picture, pooled text, time ids, scale) stays.

    Args:
        net: IdentityNet, a diffusers ``ControlNetModel``.
        pipe: the pipeline that calls it; its ``do_classifier_free_guidance`` tells the unconditional rows.
        tokens: [people, n, width]; people must divide the pictures of a call.
        unconditional: [1, n, width], for unconditional rows.
        mask: [people or 1, 1, H, W] in 0..1 over the canvas; outside of it the net adds nothing.
    """

    def rows_of(items: int, args: tuple[Any, ...], kwargs: dict[str, Any], *, split: bool) -> list[int]:
        sample = args[0] if args else kwargs["sample"]
        guided = _is_guided(pipe, kwargs)
        return Call(rows=sample.shape[0], guided=guided).row_index(items, unconditional=split and guided)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sample = args[0] if args else kwargs["sample"]
        rows = rows_of(tokens.shape[0], args, kwargs, split=True)
        context = torch.cat([unconditional, tokens]) if _is_guided(pipe, kwargs) else tokens
        return args, kwargs | {"encoder_hidden_states": context[rows].to(sample)}

    def after(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        assert mask is not None
        rows = rows_of(mask.shape[0], args, kwargs, split=False)
        down, mid = output  # a pipeline asks for a tuple
        return [x * mask_like(mask, x, rows) for x in down], mid * mask_like(mask, mid, rows)

    handles = [net.register_forward_pre_hook(before, with_kwargs=True)]
    if mask is not None:
        handles.append(net.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_guided(pipe: Any, kwargs: dict[str, Any]) -> bool:
    # In guess mode a guided pipeline runs ControlNets on the conditional rows only.
    return bool(pipe.do_classifier_free_guidance) and not kwargs.get("guess_mode", False)
