"""The places where an adapter may touch a diffusion model, each a scope that leaves no trace.

:mod:`~idpersona.seams.cross` adds identity branches to cross-attention, :mod:`~idpersona.seams.residual`
ControlNet-type residuals; :mod:`~idpersona.seams.scope` attaches both to a pipeline.
"""
