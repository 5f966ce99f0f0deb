"""The seam ``cross``: identity branches beside the text in cross-attention layers, put in for a scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from diffusers.models.attention_processor import Attention
from torch import nn

from idpersona.errors import SeamError
from idpersona.seams.call import Call, call_scope
from idpersona.seams.host import Branch, add_branch, remove_branch


class CrossBranch(Protocol):
    """What an adapter gives to the seam."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers it touches, e.g. ``down_blocks.1.attentions.0.transformer_blocks.0.attn2``."""
        ...

    def prepare(self, call: Call) -> None:
        """Called before every forward pass; keys and values are computed here, once per pipeline call."""
        ...

    def at(self, layer: str, call: Call) -> Branch:
        """The function to be called in ``layer``: from its query and text result [B, N, C] to what is added.

        One object per layer, holding that layer's own tensors: looked up by name inside a compiled block,
        they would make it compile anew for every layer.
        """
        ...

    def release(self) -> None:
        """Called when the scope ends: let go of what was cached."""
        ...


def attention_layers(model: nn.Module, *, cross: bool) -> dict[str, Attention]:
    """Cross- or self-attention layers of a denoiser by module name, in the order of the module tree."""
    inner: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    return {
        name: module
        for name, module in inner.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention is cross
    }


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
    layers = cross_layers(model)
    with contextlib.ExitStack() as stack:
        shared = call or stack.enter_context(call_scope(model, pipe))
        for branch in branches:
            stack.callback(branch.release)
            for name in branch.layers:
                if name not in layers:
                    raise SeamError(f"{type(model).__name__} has no cross-attention layer {name}")
                term = branch.at(name, shared)
                add_branch(name, layers[name], term)
                stack.callback(remove_branch, layers[name], term)

        def before(_module: nn.Module, _args: Any) -> None:
            for branch in branches:
                branch.prepare(shared)

        stack.callback(model.register_forward_pre_hook(before).remove)
        yield
