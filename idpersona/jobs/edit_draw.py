"""Inverts the photo of a job, draws the edit, and checks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from idpersona.jobs.draw import dtype_name, note_cut
from idpersona.jobs.edit_photo import (
    canvas,
    checked_control,
    crop,
    framed,
    head,
    require_same_photo,
    source_prompt,
)
from idpersona.jobs.edit_prepare import EditJob
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models
from idpersona.pipelines.inversion.record import Inversion
from idpersona.safety import check_picture

GRID_STRENGTH = (0.5, 0.65, 0.8, 1.0)
GRID_SELF = (0.3, 0.6, 0.9)


@dataclass(frozen=True, kw_only=True)
class Edited:
    """What became of a photo.

    Attributes:
        picture: the edit, RGB.
        settings: what belongs into its file.
        photo: what of the photo was edited, of the same size.
        record: its inversion.
        sheet: the ladder of strengths and its settings, where it was asked for.
    """

    picture: Image.Image
    settings: dict[str, Any]
    photo: Image.Image
    record: Inversion
    sheet: tuple[Image.Image, dict[str, Any]] | None


def draw_edit(job: EditJob, models: Models, listener: Listener) -> Edited:
    """The edit of a photo.

    Raises:
        IdPersonaError: photo, words, base and adapters do not go together; the people registry refuses the
            picture.
    """
    request = job.request
    pipe, adapters, device = models.load(
        request.base,
        [use.name for use in job.adapters],
        listener,
        device=request.device,
        dtype=request.dtype,
    )
    import torch

    from idpersona.pipelines import invert
    from idpersona.pipelines.editing.retouch import retouch
    from idpersona.pipelines.inversion.methods import METHODS
    from idpersona.pipelines.inversion.record import model_fingerprint

    photo, points = framed(job, canvas(job, pipe), listener)
    source = source_prompt(job, photo, listener)
    prompt = source if request.prompt is None else request.prompt
    for text, option in ((source, "--source"), (prompt, "--prompt")):
        note_cut(pipe, text, option, listener, "shorten it")
    control = checked_control(job, pipe, source, prompt)
    region = None if not request.keep_background else head(photo, points)
    strengths = [control, *_ladder(control)] if request.grid else [control]
    kind = METHODS[job.method]
    turns = 0 if job.record is not None else kind.turns
    attached = partial(_attached, job, pipe, adapters, photo, points)
    with _progress(listener, job.steps * (turns + kind.calls * len(strengths))):
        if job.record is None:
            with attached(drawing=False):
                record = invert(
                    pipe,
                    photo,
                    source,
                    method=job.method,
                    steps=job.steps,
                    guidance=job.guidance,
                    size=photo.size,
                    on_step=lambda: listener.step("inverting"),
                    **job.method_options,
                )
        else:
            record = job.record
            record.check(model=model_fingerprint(pipe))
            require_same_photo(pipe, photo, record, request)

        def on_step(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents = values.get("latents")
            # The photo is drawn beside its edit, before it.
            listener.step("drawing", pipe, None if latents is None else latents[-1:])
            return values

        pictures: list[Image.Image] = []
        with attached(drawing=True):
            for strength in strengths:
                pictures += retouch(
                    pipe,
                    record,
                    [photo],
                    prompt,
                    control=strength,
                    guidance=job.guidance,
                    negative=request.negative,
                    region=region,
                    detail=request.detail,
                    on_step=on_step,
                )
    for picture in pictures:
        check_picture(picture, job.people)
    about = {
        **job.recorded,
        "source": source,
        "prompt": prompt,
        "method": record.method,
        "method_options": dict(record.options or {}),
        "control": None if control is None else asdict(control),
        "negative": source if request.negative is None and kind.free_negative else request.negative,
        "detail": request.detail,
        "keep_background": request.keep_background,
        "crop": crop(job),
        "adapters_of_edit": [asdict(adapter) for adapter in job.adapters],
        "base": request.base,
        "steps": record.steps,
        "guidance": job.guidance,
        "inverted_for": record.guidance,
        "passes": record.passes,
        "width": photo.width,
        "height": photo.height,
        "device": device,
        "dtype": dtype_name(pipe),
        "torch_threads": torch.get_num_threads(),
    }
    sheet = None
    if request.grid:
        ladder = {"strength": GRID_STRENGTH, "self_attention": GRID_SELF}
        sheet = (_sheet(photo, pictures), {**about, "sheet": ladder})
    return Edited(picture=pictures[0], settings=about, photo=photo, record=record, sheet=sheet)


@contextmanager
def _progress(listener: Listener, steps: int) -> Iterator[None]:
    listener.started(steps, "editing")
    try:
        yield
    finally:
        listener.finished()


def _ladder(control: Any) -> list[Any]:
    return [replace(control, strength=c, self_attention=s) for s in GRID_SELF for c in GRID_STRENGTH]


def _sheet(photo: Image.Image, pictures: list[Image.Image]) -> Image.Image:
    from idpersona.sheets import contact_sheet

    width = len(GRID_STRENGTH)
    rows = [[photo, *pictures[1 + n * width : 1 + (n + 1) * width]] for n in range(len(GRID_SELF))]
    return contact_sheet(
        rows,
        columns=["photo", *(f"strength {c:g}" for c in GRID_STRENGTH)],
        names=[f"self-steps {s:g}" for s in GRID_SELF],
        cell=max(photo.size),
    )


@contextmanager
def _attached(
    job: EditJob,
    pipe: Any,
    adapters: list[Any],
    photo: Image.Image,
    points: np.ndarray | None,
    *,
    drawing: bool,
) -> Iterator[None]:
    """The adapters, for the inversion or for the drawing. The face stands as it stands in the photo.

    Those that are told who it is are there for both, so that guidance leads only where the words differ;
    those that edit prompts, and what makes somebody else of the person, have no part in the inversion.
    """
    if job.cast is None:
        yield
        return
    assert job.face is not None and points is not None  # prepare has read the face
    pose = replace(job.face, keypoints=points, image_size=photo.size)
    with ExitStack() as scopes:
        for adapter, use in zip(adapters, job.adapters, strict=True):
            if not drawing and not adapter.encoders:
                continue
            left_out = () if drawing else adapter.drawing_options
            options = {name: value for name, value in use.options.items() if name not in left_out}
            who = job.cast.on_canvas if adapter.encoders else None
            posed = pose if adapter.holds_pose else None
            scopes.enter_context(adapter.attach(pipe, who, scale=use.scale, pose=posed, **options))
        yield
