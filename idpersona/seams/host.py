"""One host per attention layer: an ordered list of branches whose results are added before ``to_out``.

On diffusers' stock processors the host *is* the layer's processor while branches are in it, and computes
attention through the layer's sub-modules. A processor it does not know stays in place: a hook on ``to_q``
gives the query, a pre-hook of ``to_out[0]`` adds the branches' results. Nothing here holds weights.

Mixers stand around the layer's own attention instead of beside it; they see queries, keys and values of all
rows. That needs the host: they refuse a processor it does not know.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from idpersona.attention.kernels import Kernel, stock_kernel
from idpersona.errors import SeamError

Branch = Callable[[Attention, Tensor, Tensor], Tensor | None]
"""(layer, query [B, N, C], text result before the output projection [B, N, C]) -> what is added, or None."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(query, key, value [B, N, C], additive mask [B * heads, 1, N] or None) -> result [B, N, C]."""
Mixer = Callable[[Attention, Tensor, Tensor, Tensor, Tensor | None, Attend], Tensor]
"""(layer, query, key, value, mask, the attention to go on with) -> result [B, N, C]."""


def _add_branches(branches: list[Branch], attn: Attention, query: Tensor, text: Tensor) -> Tensor:
    result = text
    for branch in branches:
        added = branch(attn, query, text)
        if added is not None:
            result = result + added
    return result


class HostProcessor:
    """The processor of a layer while branches are in it."""

    def __init__(self, name: str, attn: Attention, kernel: Kernel):
        self.name, self.kernel = name, kernel
        self.original = attn.processor
        self.branches: list[Branch] = []
        self.mixers: list[Mixer] = []
        attn.processor = self  # type: ignore[assignment]

    # diffusers passes on only those keyword arguments whose names stand in this signature.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None:
            context = hidden_states
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(encoder_hidden_states)
        else:
            context = encoder_hidden_states
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)  # type: ignore[misc]
        text = self._attend(attn, len(self.mixers), query, key, value, attention_mask)
        result = _add_branches(self.branches, attn, query, text)
        result = attn.to_out[1](attn.to_out[0](result))  # type: ignore[index]
        return result / attn.rescale_output_factor

    def _attend(
        self, attn: Attention, mixers: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The layer's attention inside the first ``mixers`` mixers; the last one stands outermost."""
        if not mixers:
            return self.kernel(attn, query, key, value, mask)
        go_on = partial(self._attend, attn, mixers - 1)
        return self.mixers[mixers - 1](attn, query, key, value, mask, go_on)

    @property
    def idle(self) -> bool:
        return not self.branches and not self.mixers

    def check(self, attn: Attention) -> None:
        if attn.processor is not self:
            raise SeamError(
                f"the processor of {self.name} was replaced by {type(attn.processor).__name__} while an "
                "adapter was attached; it stays in place: set processors before attaching or after detaching"
            )

    def close(self, attn: Attention) -> None:
        self.check(attn)
        attn.processor = self.original


class HookHost:
    """Hooks around a processor that is not ours to repeat."""

    def __init__(self, name: str, attn: Attention):
        self.name = name
        self.branches: list[Branch] = []
        self._query: Tensor | None = None
        self._served = False
        attn_ref = weakref.ref(attn)

        def enter(_module: nn.Module, _args: Any) -> None:
            self._served = False

        def take_query(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._query = output

        def add(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            query, self._query = self._query, None
            layer = attn_ref()
            if layer is None or query is None or query.shape != args[0].shape:
                raise self._unfit(layer)
            self._served = True
            return (_add_branches(self.branches, layer, query, args[0]), *args[1:])

        def leave(module: nn.Module, _args: Any, _output: Any) -> None:
            self._query = None
            if not self._served:
                raise self._unfit(module)

        self._handles = [
            attn.register_forward_pre_hook(enter),
            attn.to_q.register_forward_hook(take_query),
            attn.to_out[0].register_forward_pre_hook(add),  # type: ignore[index]
            attn.register_forward_hook(leave),
        ]

    @property
    def idle(self) -> bool:
        return not self.branches

    def _unfit(self, attn: Any) -> SeamError:
        kind = type(getattr(attn, "processor", None)).__name__
        return SeamError(
            f"{kind} in {self.name} does not go through to_q and to_out[0] once each; "
            "no identity branch can be added to it"
        )

    def check(self, attn: Attention) -> None:
        """A processor set meanwhile is served just as well: the hooks are on the layer."""

    def close(self, attn: Attention) -> None:
        for handle in self._handles:
            handle.remove()


_hosts: weakref.WeakKeyDictionary[nn.Module, HostProcessor | HookHost] = weakref.WeakKeyDictionary()


def _host(name: str, attn: Attention) -> HostProcessor | HookHost:
    """The layer's host, which is made if there is none; SeamError if its processor was replaced."""
    host = _hosts.get(attn)
    if host is None:
        kernel = stock_kernel(attn)
        host = HookHost(name, attn) if kernel is None else HostProcessor(name, attn, kernel)
        _hosts[attn] = host
    host.check(attn)
    return host


def add_branch(name: str, attn: Attention, branch: Branch) -> None:
    """Append ``branch`` to the layer's host, which is made if it is the first.

    Raises:
        SeamError: the user replaced the processor of a layer that already has a host.
    """
    _host(name, attn).branches.append(branch)


def remove_branch(attn: Attention, branch: Branch) -> None:
    """Take ``branch`` out again; with the last one the layer gets back the very processor it had.

    Raises:
        SeamError: the user replaced the processor meanwhile; it stays in place.
    """
    host = _hosts[attn]
    host.branches[:] = [other for other in host.branches if other is not branch]
    _close_if_idle(host, attn)


def add_mixer(name: str, attn: Attention, mixer: Mixer) -> None:
    """Put ``mixer`` around the layer's attention and the mixers that are there.

    Raises:
        SeamError: the layer's processor is none of diffusers' stock ones, or the user replaced it.
    """
    if stock_kernel(attn) is None and not isinstance(_hosts.get(attn), HostProcessor):
        raise SeamError(
            f"{type(attn.processor).__name__} in {name} computes attention in its own way, nothing can be "
            "mixed into it: set a stock processor first, unet.set_attn_processor(AttnProcessor2_0())"
        )
    host = _host(name, attn)
    assert isinstance(host, HostProcessor)
    host.mixers.append(mixer)


def remove_mixer(attn: Attention, mixer: Mixer) -> None:
    """Take ``mixer`` out again, as :func:`remove_branch` does."""
    host = _hosts[attn]
    assert isinstance(host, HostProcessor)
    host.mixers[:] = [other for other in host.mixers if other is not mixer]
    _close_if_idle(host, attn)


@contextlib.contextmanager
def _attached_again(attn: Attention, processor: Any, branches: Sequence[Branch]) -> Iterator[None]:
    """A scope in which a layer has the processor that it had, a host's with the ``branches`` of that time."""
    there, attn.processor = attn.processor, processor
    host = processor if isinstance(processor, HostProcessor) else None
    kept = list(host.branches) if host else []
    if host:
        host.branches[:] = branches
    try:
        yield
    finally:
        attn.processor = there
        if host:
            host.branches[:] = kept


def attached(attn: Attention) -> contextlib.AbstractContextManager[None]:
    """What is in a layer now, as a scope that puts it there again, once.

    Raises:
        SeamError: branches stand around a processor that is none of diffusers' stock ones.
    """
    host = _hosts.get(attn)
    if isinstance(host, HookHost) and host.branches:
        raise SeamError(
            f"activations of {host.name} cannot be computed a second time: its processor "
            f"{type(attn.processor).__name__} is no stock one; unet.set_attn_processor(AttnProcessor2_0())"
        )
    if isinstance(host, HostProcessor) and host.mixers:
        raise SeamError(f"activations of {host.name} cannot be computed a second time: attention is mixed in")
    return _attached_again(attn, attn.processor, list(host.branches) if host else [])


def _close_if_idle(host: HostProcessor | HookHost, attn: Attention) -> None:
    if host.idle:
        del _hosts[attn]
        host.close(attn)
