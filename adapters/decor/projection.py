"""DECOR's projection of text embeddings off what shall not be drawn (arXiv:2412.09169).

Rows X [l, d] are text embeddings, rows of U [m, d] those of undesired tokens. With the right singular vectors
V of U, P = V Vᵀ projects onto what U spans, and X' = X - alpha * X P is X with that part taken out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from idpersona.errors import BadInput

RTOL = 1e-5
"""Singular values below this share of the largest are rounding: tokens that repeat each other have them."""


def span(rows: Tensor, *, axes: int | None = None, floor: float | None = None) -> Tensor:
    """An orthonormal basis of what ``rows`` [m, d] span, strongest axis first: float32 [r, d].

    Args:
        axes: at most so many.
        floor: singular values up to this count as zero; None takes :data:`RTOL` of the largest.
    """
    _, strength, basis = torch.linalg.svd(rows.float(), full_matrices=False)
    if floor is None:
        floor = RTOL * float(strength[0]) if len(strength) else 0.0
    basis = basis[strength > floor]
    return basis if axes is None else basis[:axes]


def undesired_axes(undesired: Tensor, keep: Tensor | None = None, *, axes: int | None = None) -> Tensor:
    """The axes to be taken out: what ``undesired`` [m, d] spans and ``keep`` [n, d] does not, float32 [r, d].

    r is 0 where everything undesired is to be kept as well.
    """
    rows = undesired.float()
    # Of what remains beside the kept rows, rounding errors must not count as axes: the floor is that of all.
    floor = RTOL * float(torch.linalg.matrix_norm(rows, 2)) if rows.numel() else 0.0
    if keep is not None and keep.numel():
        kept = span(keep)
        rows = rows - rows @ kept.T @ kept
    return span(rows, axes=axes, floor=floor)


def decor(
    embeds: Tensor,
    undesired: Tensor,
    alpha: float,
    *,
    keep: Tensor | None = None,
    axes: int | None = None,
) -> Tensor:
    """``embeds - alpha * embeds P``, computed in float32 and returned in the dtype of ``embeds``.

    Args:
        embeds: [..., d].
        undesired: [m, d], rows whose span is taken out.
        alpha: degree, 0 (nothing) to 1 (wholly).
        keep: [n, d], rows whose span stays untouched.
        axes: at most so many axes of the undesired span, the strongest.

    Raises:
        BadInput: ``alpha`` outside of 0..1, or widths that differ.
    """
    if not 0 <= alpha <= 1:
        raise BadInput(f"DECOR's scale is a degree from 0 to 1, got {alpha}")
    if undesired.ndim != 2 or undesired.shape[-1] != embeds.shape[-1]:
        raise BadInput(f"undesired rows {tuple(undesired.shape)} for embeddings {tuple(embeds.shape)}")
    if alpha == 0:
        return embeds
    basis = undesired_axes(undesired, keep, axes=axes)
    wide = embeds.float()
    return (wide - alpha * (wide @ basis.T) @ basis).to(embeds.dtype)
