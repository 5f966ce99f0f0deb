"""The places where an adapter may touch a diffusion model, each a scope that leaves no trace.

:mod:`~idpersona.seams.cross` adds identity branches to cross-attention,
:mod:`~idpersona.seams.self_attention` lets rows see other rows, :mod:`~idpersona.seams.residual` adds
ControlNet-type residuals, :mod:`~idpersona.seams.linear` low-rank changes of linear layers, and
:mod:`~idpersona.seams.text` edits the encoded prompt. :mod:`~idpersona.seams.scope` attaches them together.
"""
