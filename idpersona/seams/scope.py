"""One scope for everything an adapter puts into a pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from idpersona.errors import SeamError
from idpersona.seams.call import call_scope
from idpersona.seams.cross import CrossBranch, cross_scope
from idpersona.seams.linear import LowRankBranch, low_rank_scope
from idpersona.seams.residual import ResidualBranch, residual_scope
from idpersona.seams.self_attention import SelfBranch, self_scope
from idpersona.seams.stream import SecondStream, stream_scope
from idpersona.seams.text import TextEdit, text_scope


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What goes into a pipeline, by seam: the arguments of :func:`attach_scope`."""

    cross: Sequence[CrossBranch] = ()
    self_attention: Sequence[SelfBranch] = ()
    residual: Sequence[ResidualBranch] = ()
    streams: Sequence[SecondStream] = ()
    low_rank: Sequence[LowRankBranch] = ()
    text: Sequence[TextEdit] = ()


def denoiser(pipe: Any) -> nn.Module:
    """The denoising model of a diffusers pipeline.

    Raises:
        SeamError: the pipeline has no U-Net.
    """
    model = getattr(pipe, "unet", None)
    if not isinstance(model, nn.Module):
        raise SeamError(f"{type(pipe).__name__} has no unet to attach to")
    return model


@contextlib.contextmanager
def attach_scope(
    pipe: Any,
    *,
    cross: Sequence[CrossBranch] = (),
    self_attention: Sequence[SelfBranch] = (),
    residual: Sequence[ResidualBranch] = (),
    streams: Sequence[SecondStream] = (),
    low_rank: Sequence[LowRankBranch] = (),
    text: Sequence[TextEdit] = (),
) -> Iterator[None]:
    """Attach branches to ``pipe`` and take them out again, however the scope is left.

    Branches that touch no layer are left out, so that with nothing to do the pipeline is not touched.

    Raises:
        SeamError: see :func:`cross_scope`, :func:`self_scope`, :func:`low_rank_scope`,
            :func:`residual_scope`, :func:`stream_scope` and :func:`text_scope`.
    """
    cross = [branch for branch in cross if branch.layers]
    self_attention = [branch for branch in self_attention if branch.layers]
    with contextlib.ExitStack() as stack:
        model = denoiser(pipe)  # refused even where there is nothing to do
        if text:
            stack.enter_context(text_scope(pipe, text))
        if cross or self_attention or residual or low_rank:
            call = stack.enter_context(call_scope(model, pipe))
            if cross:
                stack.enter_context(cross_scope(model, cross, call=call))
            if self_attention:
                stack.enter_context(self_scope(model, self_attention, call=call))
            if low_rank:
                stack.enter_context(low_rank_scope(model, low_rank, call=call))
            if residual:
                stack.enter_context(residual_scope(model, residual, call=call))
            if streams:
                stack.enter_context(stream_scope(model, streams))
        yield
