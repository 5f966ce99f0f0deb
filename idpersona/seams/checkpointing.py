"""Gradient checkpointing (arXiv:1604.06174) of a denoiser to which something is attached.

The backward pass computes a block's activations a second time, when the scope of what was attached may have
been left, or another one have been entered. Blocks therefore remember what was in their attention layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn
from torch.utils.checkpoint import checkpoint

from idpersona.errors import SeamError
from idpersona.seams.host import attached


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep no activations inside the blocks of ``model``, a U-Net or ControlNet of diffusers.

    Raises:
        SeamError: the model cannot do it. In a pass: what is attached cannot be put back, see
            :func:`~idpersona.seams.host.attached`.
    """
    if not getattr(model, "_supports_gradient_checkpointing", False):
        raise SeamError(f"{type(model).__name__} cannot compute its activations a second time")
    model.enable_gradient_checkpointing(_checkpointed)  # type: ignore[operator]


def _checkpointed(block: nn.Module, *inputs: Any) -> Any:
    scopes = [attached(layer) for layer in block.modules() if isinstance(layer, Attention)]
    contexts = partial(_contexts, scopes)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(scopes: Sequence[Any]) -> tuple[Any, Any]:
    """For the first pass and for the second."""
    return contextlib.nullcontext(), _all(scopes)


@contextlib.contextmanager
def _all(scopes: Sequence[Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(scope)
        yield
