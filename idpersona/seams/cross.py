"""The seam ``cross``: identity branches beside the text in cross-attention layers, put in for a scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from idpersona.seams.call import Call
from idpersona.seams.host import add_branch, remove_branch
from idpersona.seams.layers import LayerBranch, attention_layers, layer_scope

CrossBranch = LayerBranch
"""Its ``at`` gives the function to be called in a layer: from its query and text result [B, N, C] to what is
added (:data:`idpersona.seams.host.Branch`)."""


def cross_layers(model: nn.Module) -> dict[str, Attention]:
    """The cross-attention layers of a denoiser by module name, in the order of the module tree."""
    return attention_layers(model, cross=True)


@contextlib.contextmanager
def cross_scope(
    model: nn.Module, branches: Sequence[CrossBranch], *, call: Call | None = None, pipe: Any = None
) -> Iterator[None]:
    """Put ``branches`` into the cross-attention layers of ``model`` for the length of the scope.

    Args:
        model: the denoiser (``pipe.unet``), compiled or not.
        branches: added in this order, after those that other scopes have put in before.
        call: state shared with the other seams of the same adapter; made here if not given.
        pipe: the pipeline that runs the model, for guidance and steps; None for a bare model
            (training), where every row is conditional.

    Raises:
        SeamError: a branch names a layer that the model does not have, or the user replaced a processor
            while a branch was in it. On leaving, every other layer is restored before that is raised.
    """
    with layer_scope(
        model,
        branches,
        cross_layers(model),
        add_branch,
        remove_branch,
        what="cross-attention",
        call=call,
        pipe=pipe,
    ):
        yield
