"""A photo edited as a user wants it back: what is not to change is the photo's own, down to its pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput
from idpersona.images import Photo
from idpersona.pipelines.editing.detail import restore
from idpersona.pipelines.editing.edit import USUAL, edit
from idpersona.pipelines.editing.region import paste
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.methods import method_of
from idpersona.pipelines.inversion.photos import fit_photo
from idpersona.pipelines.inversion.record import Inversion


def retouch(
    pipe: Any,
    record: Inversion,
    photos: Photo | Sequence[Photo],
    prompts: str | Sequence[str],
    *,
    control: Control | None = USUAL,
    guidance: float | None = None,
    negative: str | Sequence[str] | None = None,
    region: np.ndarray | None = None,
    detail: bool = True,
    on_step: Callable[..., Any] | None = None,
) -> list[Image.Image]:
    """:func:`~idpersona.pipelines.editing.edit.edit`, and what the autoencoder lost of the photos given back.

    Args:
        pipe, record, prompts, control, guidance, on_step: as of ``edit``.
        photos: those that were inverted; the middle of each at the record's size, as in ``invert``.
        negative: as of ``edit``; None for what the photos show where the inversion leaves that free, so that
            guidance pushes only what differs. An empty text is what is published.
        region: as of ``edit``; outside of it the edit is the photo, pixel for pixel.
        detail: give back what the autoencoder lost where the edit changes nothing.

    Raises:
        As ``edit``; PhotoError for a photo that cannot be read, BadInput for another number of them.
    """
    many: list[Any] = list(photos) if isinstance(photos, (list, tuple)) else [photos]
    if len(many) != record.photos:
        raise BadInput(
            f"{len(many)} photos for an inversion of {record.photos}: give those that were inverted"
        )
    height, width = (side * pipe.vae_scale_factor for side in record.size)
    pictures = [fit_photo(photo, (width, height)) for photo in many]
    if negative is None and method_of(record).free_negative:
        negative = record.prompts
    found = edit(
        pipe,
        record,
        prompts,
        control=control,
        guidance=guidance,
        negative=negative,
        region=region,
        on_step=on_step,
    )
    finished = []
    for photo, source, image in zip(pictures, found.sources, found.images, strict=True):
        whole = restore(photo, source, image) if detail else image
        finished.append(whole if region is None else paste(photo, whole, region))
    return finished
