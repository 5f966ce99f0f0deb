"""IdentityNet inside a stock ControlNet pipeline: identity tokens take the place of the text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from idpersona.seams.call import Call


@contextlib.contextmanager
def identity_context(net: nn.Module, pipe: Any, tokens: Tensor, unconditional: Tensor) -> Iterator[None]:
    """Give ``net`` identity tokens as ``encoder_hidden_states`` for the length of the scope.

    Everything else that the pipeline passes on (picture, pooled text, time ids, scale) stays.

    Args:
        net: IdentityNet, a diffusers ``ControlNetModel``.
        pipe: the pipeline that calls it; its ``do_classifier_free_guidance`` tells the unconditional rows.
        tokens: [people, n, width]; people must divide the pictures of a call.
        unconditional: [1, n, width], for unconditional rows.
    """

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sample = args[0] if args else kwargs["sample"]
        # In guess mode a guided pipeline runs ControlNets on the conditional rows only.
        guided = bool(pipe.do_classifier_free_guidance) and not kwargs.get("guess_mode", False)
        call = Call(rows=sample.shape[0], guided=guided)
        rows = call.row_index(tokens.shape[0], unconditional=guided)
        context = torch.cat([unconditional, tokens]) if guided else tokens
        return args, kwargs | {"encoder_hidden_states": context[rows].to(sample)}

    handle = net.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
