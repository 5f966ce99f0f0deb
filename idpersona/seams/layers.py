"""What the seams ``cross`` and ``self`` share: the layers by name, and branches put into them for a scope."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from diffusers.models.attention_processor import Attention
from torch import nn

from idpersona.errors import SeamError
from idpersona.seams.call import Call, call_scope


class LayerBranch(Protocol):
    """What an adapter gives to a seam that goes through attention layers."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers it touches, e.g. ``down_blocks.1.attentions.0.transformer_blocks.0.attn2``."""
        ...

    def prepare(self, call: Call) -> None:
        """Called before every forward pass; what is constant is computed here, once per pipeline call."""
        ...

    def at(self, layer: str, call: Call) -> Any:
        """What is put into ``layer``: a ``Branch`` or a ``Mixer`` of :mod:`idpersona.seams.host`.

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


@contextlib.contextmanager
def layer_scope(
    model: nn.Module,
    branches: Sequence[LayerBranch],
    layers: Mapping[str, Attention],
    add: Callable[[str, Attention, Any], None],
    remove: Callable[[Attention, Any], None],
    *,
    what: str,
    call: Call | None,
    pipe: Any,
) -> Iterator[None]:
    """Put ``branches`` into ``layers`` of ``model`` by ``add`` and take them out by ``remove``.

    Raises:
        SeamError: a branch names a layer that is not among ``layers`` (called ``what`` in the message), or
            ``add`` or ``remove`` refuse. On leaving, every other layer is restored before that is raised.
    """
    with contextlib.ExitStack() as stack:
        shared = call or stack.enter_context(call_scope(model, pipe))
        for branch in branches:
            stack.callback(branch.release)
            for name in branch.layers:
                if name not in layers:
                    raise SeamError(f"{type(model).__name__} has no {what} layer {name}")
                term = branch.at(name, shared)
                add(name, layers[name], term)
                stack.callback(remove, layers[name], term)

        def before(_module: nn.Module, _args: Any) -> None:
            for branch in branches:
                branch.prepare(shared)

        stack.callback(model.register_forward_pre_hook(before).remove)
        yield
