"""Inverts the photo, draws the edit, checks it, and writes everything or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.cli.edit_photo import (
    canvas,
    checked_control,
    crop,
    framed,
    head,
    require_same_photo,
    source_prompt,
)
from idpersona.cli.edit_prepare import EditJob
from idpersona.cli.output import Progress, spinner
from idpersona.cli.prepare import AdapterUse
from idpersona.cli.render import best_device, dtype_name, note_cut
from idpersona.images import atomic_output
from idpersona.provenance import COMPOSITE_TYPE, write_png
from idpersona.safety import check_picture
from idpersona.silence import quiet_libraries

GRID_STRENGTH = (0.5, 0.65, 0.8, 1.0)
GRID_SELF = (0.3, 0.6, 0.9)


def render(job: EditJob) -> dict[Path, dict[str, Any]]:
    """Make the files; returns what is recorded in each."""
    request = job.request
    pipe, adapters, device = _load(job)
    import torch

    from idpersona.pipelines import invert
    from idpersona.pipelines.editing.retouch import retouch
    from idpersona.pipelines.inversion.methods import METHODS
    from idpersona.pipelines.inversion.record import model_fingerprint

    photo, points = framed(job, canvas(job, pipe))
    source = source_prompt(job, photo)
    for text, option in ((source, "--source"), (request.prompt, "--prompt")):
        note_cut(pipe, text, option, "shorten it")
    control = checked_control(job, pipe, source)
    region = None if not request.keep_background else head(photo, points)
    strengths = [control, *_ladder(control)] if request.grid else [control]
    kind = METHODS[job.method]
    turns = 0 if job.record is not None else kind.turns
    with (
        Progress(job.steps * (turns + kind.calls * len(strengths)), "editing") as progress,
        _attached(job, pipe, adapters, photo, points) as for_drawing,
    ):
        if job.record is None:
            record = invert(
                pipe,
                photo,
                source,
                method=job.method,
                steps=job.steps,
                guidance=job.guidance,
                size=photo.size,
                on_step=lambda: progress.advance("inverting"),
                **job.method_options,
            )
        else:
            record = job.record
            record.check(model=model_fingerprint(pipe))
            require_same_photo(pipe, photo, record, request)

        def on_step(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            progress.advance("drawing")
            return values

        pictures: list[Image.Image] = []
        with for_drawing:
            for strength in strengths:
                pictures += retouch(
                    pipe,
                    record,
                    [photo],
                    request.prompt,
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
    return _write(job, pictures, photo, record, about)


def _write(
    job: EditJob, pictures: list[Image.Image], photo: Image.Image, record: Any, about: dict[str, Any]
) -> dict[Path, dict[str, Any]]:
    """All files, or none of them."""
    request, written = job.request, {}
    with ExitStack() as files:
        if request.save_inversion is not None:
            part = files.enter_context(atomic_output(request.save_inversion, force=request.force))
            record.save(part, force=True)
            written[request.save_inversion] = {"inversion_of": request.photo, "passes": record.passes}
        if request.grid:
            part = files.enter_context(atomic_output(request.sheet, force=request.force))
            ladder = {"strength": GRID_STRENGTH, "self_attention": GRID_SELF}
            told = {**about, "sheet": ladder}
            write_png(_sheet(photo, pictures), part, told, force=True, source_type=COMPOSITE_TYPE)
            written[request.sheet] = told
        part = files.enter_context(atomic_output(request.target, force=request.force))
        write_png(pictures[0], part, about, force=True, source_type=COMPOSITE_TYPE)
    return {request.target: about, **written}


def _load(job: EditJob) -> tuple[Any, list[Any], str]:
    started = time.monotonic()
    request = job.request
    names = ", ".join((request.base, *(adapter.name for adapter in job.adapters)))
    with spinner(f"loading {names}"):
        quiet_libraries()
        from idpersona.adapters import load_adapter
        from idpersona.pipelines import load_base

        device = request.device or best_device()
        pipe: Any = load_base(request.base, device=device, dtype=request.dtype)
        pipe.set_progress_bar_config(disable=True)
        adapters = [load_adapter(adapter.name, base=pipe) for adapter in job.adapters]
    print(f"loaded {names} on {device}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return pipe, adapters, device


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
    job: EditJob, pipe: Any, adapters: list[Any], photo: Image.Image, points: np.ndarray | None
) -> Iterator[AbstractContextManager[Any]]:
    """The adapters that are told who it is, from the inversion on; gives the scope of the others, which edit
    prompts and have no part in an inversion. The face stands as it stands in the photo."""
    if job.cast is None:
        yield nullcontext()
        return
    assert job.face is not None and points is not None  # prepare has read the face
    pose = replace(job.face, keypoints=points, image_size=photo.size)
    cast = job.cast

    def scope(adapter: Any, use: AdapterUse) -> AbstractContextManager[Any]:
        who = cast.on_canvas if adapter.encoders else None
        posed = pose if adapter.holds_pose else None
        return adapter.attach(pipe, who, scale=use.scale, pose=posed, **use.options)

    pairs = list(zip(adapters, job.adapters, strict=True))
    with _all(scope(*pair) for pair in pairs if pair[0].encoders):
        yield _all(scope(*pair) for pair in pairs if not pair[0].encoders)


@contextmanager
def _all(scopes: Iterable[AbstractContextManager[Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(scope)
        yield
