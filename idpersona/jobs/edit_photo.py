"""The photo of an edit: what of it is edited, what it shows, and where words may change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput
from idpersona.jobs.edit_prepare import EditJob
from idpersona.jobs.edit_request import EditRequest
from idpersona.jobs.listener import Listener
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.record import Inversion, InversionError

SAME_PHOTO = 0.05
"""Largest root mean square difference of a photo's latents from those of its saved inversion, relative."""


def canvas(job: EditJob, pipe: Any) -> tuple[int, int]:
    """Width and height of the picture that is edited.

    Raises:
        BadInput: a size that the base or the inversion does not take.
    """
    from idpersona.pipelines.inversion.methods import get_method

    if job.record is None:
        return get_method(job.method).canvas(pipe, job.request.size)
    height, width = (side * pipe.vae_scale_factor for side in job.record.size)
    if job.request.size not in (None, (width, height)):
        raise BadInput(
            f"this inversion is of a picture of {width}x{height}: leave --size out, or invert anew"
        )
    return width, height


def crop(job: EditJob) -> str:
    """What of the photo is edited, ``face`` or ``middle``."""
    return job.request.crop or ("face" if job.request.base == "mini" else "middle")


def framed(job: EditJob, size: tuple[int, int], listener: Listener) -> tuple[Image.Image, np.ndarray | None]:
    """The photo as it is edited, and the five points of its face in it; says what became of it."""
    from idpersona.pipelines.inversion.photos import fit_photo, fit_points

    photo, points = job.picture, None if job.face is None else job.face.keypoints
    if crop(job) == "middle":
        picture = fit_photo(photo, size)
        if photo.width * size[1] != photo.height * size[0]:
            listener.note(
                f"of {photo.width}x{photo.height} pixels the middle is edited, at {size[0]}x{size[1]}"
            )
        elif photo.size != size:
            listener.note(
                f"the photo of {photo.width}x{photo.height} pixels is edited at {size[0]}x{size[1]}"
            )
        if points is None:
            return picture, None
        points = fit_points(points, photo.size, size)
        if not ((points >= 0) & (points < size)).all():
            raise BadInput(
                "the face is not in the middle of the photo, which is edited: crop the photo, give another "
                "--size, or --crop face"
            )
        return picture, points
    from idpersona.training.data.framing import frame

    assert points is not None  # prepare has read the face
    if size[0] != size[1]:
        raise BadInput(f"--crop face makes square pictures, not {size[0]}x{size[1]}: give --crop middle")
    listener.note(f"the face is cut out, upright and as large as mini was trained on, at {size[0]}x{size[1]}")
    return frame(photo, points, size[0])


def source_prompt(job: EditJob, photo: Image.Image, listener: Listener) -> str:
    """What the photo shows."""
    if job.record is not None:
        return job.record.prompts[0]
    if job.request.source is not None:
        return job.request.source
    from idpersona.encoders.describe import describe, look

    text = describe(look(photo))
    listener.note(f"--source, from what the attribute classifier sees: '{text}'")
    return text


def head(photo: Image.Image, points: np.ndarray | None) -> np.ndarray:
    """The region of ``--keep-background``, float32 [height, width]."""
    from idpersona.encoders.masks import head_mask

    assert points is not None  # prepare has read the face
    return head_mask(photo.size, points)


def checked_control(job: EditJob, pipe: Any, source: str, prompt: str) -> Control | None:
    """The job's control with the places of its words, when prompts and words go together.

    Raises:
        BadInput: they do not; said before the photo is inverted, which may take long.
    """
    from idpersona.pipelines.editing.concepts import concepts
    from idpersona.pipelines.editing.control import plan

    request = job.request
    if job.control is None:
        concepts(source, prompt)
        return None
    blend = _blend(pipe.tokenizer, request.words, source, prompt)
    control = replace(job.control, blend=blend)
    plan(pipe.tokenizer, control, source, prompt)
    return control


def _blend(tokenizer: Any, words: tuple[str, ...], source: str, prompt: str) -> tuple[str, str] | None:
    """The words of ``--words`` in each of the two prompts."""
    from idpersona.seams.text import listed, word_rows

    named = [word for text in words for word in listed(text)]
    if not named:
        return None
    found = [[word for word in named if word_rows(tokenizer, text, word)] for text in (source, prompt)]
    for word in named:
        if word not in found[0] + found[1]:
            raise BadInput(f"--words: neither '{source}' nor '{prompt}' holds '{word}'")
    return ",".join(found[0]), ",".join(found[1])


def require_same_photo(pipe: Any, photo: Image.Image, record: Inversion, request: EditRequest) -> None:
    """Raise InversionError when ``record`` is of another photo, or of another part of it."""
    from idpersona.pipelines.inversion.photos import encode_pictures

    known = record.latents[0][:1].float().cpu()
    seen = encode_pictures(pipe, [photo]).cpu()
    if float((seen - known).square().mean().sqrt()) > SAME_PHOTO * float(known.square().mean().sqrt()):
        raise InversionError(
            f"{request.inversion} is not an inversion of {request.photo} as it is cut here: give the photo "
            "and the options of cutting that it was made with, or invert anew"
        )
