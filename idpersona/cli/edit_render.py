"""Inverts the photo, draws the edit, checks it, and writes everything or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.cli.edit_prepare import EditJob
from idpersona.cli.edit_request import EditRequest
from idpersona.cli.output import Progress, note, spinner
from idpersona.cli.render import best_device, note_cut
from idpersona.errors import BadInput
from idpersona.images import atomic_output
from idpersona.provenance import COMPOSITE_TYPE, write_png
from idpersona.safety import check_picture
from idpersona.silence import quiet_libraries

GRID_STRENGTH = (0.5, 0.65, 0.8, 1.0)
GRID_SELF = (0.3, 0.6, 0.9)
SAME_PHOTO = 0.05
"""Largest root mean square difference of a photo's latents from those of its saved inversion, relative."""


def render(job: EditJob) -> dict[Path, dict[str, Any]]:
    """Make the files; returns what is recorded in each."""
    request = job.request
    pipe, adapters, device = _load(job)
    import torch

    from idpersona.pipelines import edit, invert
    from idpersona.pipelines.editing.detail import restore
    from idpersona.pipelines.editing.edit import FREE_NEGATIVE
    from idpersona.pipelines.editing.region import paste
    from idpersona.pipelines.inversion.methods import get_method
    from idpersona.pipelines.inversion.record import model_fingerprint

    photo, points = _framed(job, _size(job, pipe))
    source = _source(job, photo)
    for text, option in ((source, "--source"), (request.prompt, "--prompt")):
        note_cut(pipe, text, option)
    control = job.control
    if control is not None:
        control = replace(control, blend=_blend(pipe.tokenizer, request.words, source, request.prompt))
    region = None if not request.keep_background else _head(photo, points)
    strengths = [control, *_ladder(control)] if request.grid else [control]
    turns = 0 if job.record is not None else get_method(job.method).turns
    with Progress(job.steps * (turns + len(strengths)), "editing") as progress:
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
            _same_photo(pipe, photo, record, request)

        negative = request.negative
        if negative is None and record.method in FREE_NEGATIVE:
            negative = source

        def on_step(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            progress.advance("drawing")
            return values

        pictures: list[Image.Image] = []
        with _attached(job, pipe, adapters, photo, points):
            for strength in strengths:
                found = edit(
                    pipe,
                    record,
                    request.prompt,
                    control=strength,
                    guidance=job.guidance,
                    negative=negative,
                    region=region,
                    on_step=on_step,
                )
                drawn = found.images[0]
                if request.detail:
                    drawn = restore(photo, found.sources[0], drawn)
                pictures.append(drawn if region is None else paste(photo, drawn, region))
    for picture in pictures:
        check_picture(picture, job.people)
    about = {
        **job.recorded,
        "source": source,
        "method": record.method,
        "method_options": dict(record.options or {}),
        "control": None if control is None else asdict(control),
        "negative": negative,
        "detail": request.detail,
        "keep_background": request.keep_background,
        "crop": _crop(job),
        "adapters_of_edit": [asdict(adapter) for adapter in job.adapters],
        "base": request.base,
        "steps": record.steps,
        "guidance": job.guidance,
        "inverted_for": record.guidance,
        "passes": record.passes,
        "width": photo.width,
        "height": photo.height,
        "device": device,
        "dtype": str(pipe.dtype).removeprefix("torch."),
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
            write_png(_sheet(photo, pictures), part, about, force=True, source_type=COMPOSITE_TYPE)
            written[request.sheet] = about
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


def _size(job: EditJob, pipe: Any) -> tuple[int, int]:
    from idpersona.pipelines.inversion.methods import get_method

    if job.record is None:
        return get_method(job.method).canvas(pipe, job.request.size)
    height, width = (side * pipe.vae_scale_factor for side in job.record.size)
    if job.request.size not in (None, (width, height)):
        raise BadInput(
            f"this inversion is of a picture of {width}x{height}: leave --size out, or invert anew"
        )
    return width, height


def _crop(job: EditJob) -> str:
    return job.request.crop or ("face" if job.request.base == "mini" else "middle")


def _framed(job: EditJob, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray | None]:
    """The photo as it is edited, and the five points of its face in it; says what became of it."""
    from idpersona.pipelines.inversion.photos import fit_photo, fit_points

    photo, points = job.picture, None if job.face is None else job.face.keypoints
    if _crop(job) == "middle":
        picture = fit_photo(photo, size)
        if photo.size != size:
            note(f"of {photo.width}x{photo.height} pixels the middle is edited, at {size[0]}x{size[1]}")
        return picture, None if points is None else fit_points(points, photo.size, size)
    from idpersona.training.data.framing import frame

    assert points is not None  # prepare has read the face
    if size[0] != size[1]:
        raise BadInput(f"--crop face makes square pictures, not {size[0]}x{size[1]}: give --crop middle")
    note(f"the face is cut out as the base's training framed faces, at {size[0]}x{size[1]}")
    return frame(photo, points, size[0])


def _source(job: EditJob, photo: Image.Image) -> str:
    """What the photo shows."""
    if job.record is not None:
        return job.record.prompts[0]
    if job.request.source is not None:
        return job.request.source
    if job.request.base != "mini":
        raise BadInput("--source: say what the photo shows (only for mini a classifier can tell)")
    from idpersona.encoders.describe import describe, look

    text = describe(look(photo))
    note(f"--source, from what the attribute classifier sees: '{text}'")
    return text


def _head(photo: Image.Image, points: np.ndarray | None) -> np.ndarray:
    from idpersona.encoders.masks import head_mask

    assert points is not None  # prepare has read the face
    return head_mask(photo.size, points)


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


def _same_photo(pipe: Any, photo: Image.Image, record: Any, request: EditRequest) -> None:
    from idpersona.pipelines.inversion.photos import encode_pictures
    from idpersona.pipelines.inversion.record import InversionError

    known = record.latents[0][:1].float().cpu()
    seen = encode_pictures(pipe, [photo]).cpu()
    if float((seen - known).square().mean().sqrt()) > SAME_PHOTO * float(known.square().mean().sqrt()):
        raise InversionError(
            f"{request.inversion} is not an inversion of {request.photo} as it is cut here: give the photo "
            "and the options of cutting that it was made with, or invert anew"
        )


@contextmanager
def _attached(
    job: EditJob, pipe: Any, adapters: list[Any], photo: Image.Image, points: np.ndarray | None
) -> Iterator[None]:
    """The adapters, for the drawing; the face stands as it stands in the photo."""
    if job.cast is None:
        yield
        return
    assert job.face is not None and points is not None  # prepare has read the face
    pose = replace(job.face, keypoints=points, image_size=photo.size)
    with ExitStack() as scopes:
        for adapter, use in zip(adapters, job.adapters, strict=True):
            who = job.cast.on_canvas if adapter.encoders else None
            posed = pose if adapter.holds_pose else None
            scopes.enter_context(adapter.attach(pipe, who, scale=use.scale, pose=posed, **use.options))
        yield
