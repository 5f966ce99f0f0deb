"""``idpersona dataset build`` and ``merge``: reading in chunks, finishing, and putting it in its place."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, OutputError
from idpersona.installed import package_versions
from idpersona.safety.people import People, load_people, people_path
from idpersona.training.data.builder.chunks import Chunk, discard_halves, finished, load_chunk, make_jobs
from idpersona.training.data.builder.engine import Task, face_encoder, read_chunks
from idpersona.training.data.builder.finish import finish
from idpersona.training.data.builder.look import require_hashes
from idpersona.training.data.builder.nearness import encoder_space
from idpersona.training.data.builder.opening import open_source
from idpersona.training.data.builder.place import (
    GIVEN,
    check_target,
    partial,
    read_run,
    started,
    take_place,
)
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.source import Source

_CHUNKS = "chunks"
_PACKAGES = (
    "idpersona",
    "numpy",
    "pillow",
    "dlib-bin",
    "ImageHash",
    "opencv-python",
    "onnxruntime",
    "insightface",
)
Progress = Callable[[int, int], Callable[[int], object]]
"""Called with the number of photos that are to be read and of those that were read before; what it returns is
called with the number of photos that were added."""


def build(
    settings: BuildSettings,
    target: Path,
    *,
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    force: bool = False,
    progress: Progress = lambda left, done: lambda added: None,
) -> dict[str, Any]:
    """Build a dataset, or with ``shard`` (part, parts) one part of it for ``merge``.

    The result does not depend on ``workers``, nor on how often the build was ended and started again: what
    was read lies in ``DST.partial`` until all is done.

    Returns:
        What ``dataset.json`` holds; of a part its ``run.json``.

    Raises:
        BadInput: settings, source or what was left by another build; says what to do.
        OutputError: ``target`` exists and not ``force``, or cannot be written.
        MissingWeights: the encoder's weights or a package are not here.
        PeopleFileError: the people registry is damaged.
    """
    if not 1 <= workers <= 256:
        raise BadInput(f"--workers must lie between 1 and 256, got {workers}")
    check_target(target, force=force)
    require_hashes()
    encoder_space(settings.encoder, settings.same_person)
    source = open_source(settings)
    _outside(settings, target)
    people = load_people()
    run = _describe(settings, source, people, shard)
    with started(target, run, force=force) as work:
        folder = work / _CHUNKS
        folder.mkdir(exist_ok=True)
        discard_halves(folder)
        jobs = make_jobs(len(source), shard)
        done = {job.number for job in finished(folder, jobs)}
        left = [job for job in jobs if job.number not in done]
        photos = sum(job.stop - job.start for job in left)
        told = progress(photos, sum(job.stop - job.start for job in jobs) - photos)
        read_chunks(Task(source, settings, people, folder), left, workers, told)
        if shard != (1, 1):
            take_place(work, target)
            return run
        chunks = [load_chunk(folder, job) for job in jobs]
        about = finish(chunks, settings, run, work / "dataset")
        take_place(work / "dataset", target)
    shutil.rmtree(partial(target), ignore_errors=True)
    return about


def merge(parts: Sequence[Path], target: Path, *, force: bool = False, **changed: Any) -> dict[str, Any]:
    """Join the parts of one build to a dataset: the same, bit for bit, as one machine alone would have made.

    Args:
        parts: folders made with ``--shard``, in any order.
        target, force: as for :func:`build`.
        changed: settings that finishing depends on (``same_person``, ``keep_duplicates``,
            ``pairs_per_photo``), where they differ from the first part's.

    Raises:
        BadInput: a folder is no part, parts are missing, given twice, or of different builds.
        OutputError: as for :func:`build`.
    """
    check_target(target, force=force)
    runs = [read_run(part) for part in parts]
    if not runs:
        raise BadInput("give the folders of the parts")
    first = {k: v for k, v in runs[0].items() if k not in ("shard", GIVEN)}
    for part, run in zip(parts, runs, strict=True):
        for name, value in first.items():
            if run.get(name) != value:
                raise BadInput(f"{part} and {parts[0]} are parts of different builds: {name} differs")
    count = int(runs[0]["shard"][1])
    place = {int(run["shard"][0]): part for part, run in zip(parts, runs, strict=True)}
    missing = sorted({*range(1, count + 1)} - place.keys())
    if missing or len(parts) != count:
        lacking = (
            f"part {', '.join(map(str, missing[:5]))} of {count} is missing"
            if missing
            else "one is twice there"
        )
        raise BadInput(f"these are not the {count} parts of a build: {lacking}")
    given: dict[str, Any] = {f.name: runs[0][GIVEN][f.name] for f in fields(BuildSettings)}
    given["faces"] = tuple(given["faces"])
    settings = replace(BuildSettings(**given), **changed)
    chunks: dict[int, Chunk] = {}
    for number, part in place.items():
        for job in make_jobs(int(first["source"]["photos"]), (number, count)):
            chunks[job.number] = load_chunk(part / _CHUNKS, job)
    work = target.with_name(f".{target.name}.merging{os.getpid()}")
    try:
        about = finish([chunks[number] for number in sorted(chunks)], settings, runs[0], work)
        take_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return about


def _describe(
    settings: BuildSettings, source: Source, people: People, shard: tuple[int, int]
) -> dict[str, Any]:
    """What a build reads and by what: with anything else, what was read before does not count."""
    encoder = face_encoder(settings.encoder)
    registry = None
    if people.guards:
        registry = {"sha256": hashlib.sha256(people_path().read_bytes()).hexdigest()}
    versions = {"python": platform.python_version(), **package_versions(_PACKAGES)}
    return {
        "source": {"kind": source.kind, "photos": len(source), "listing_sha256": source.listing},
        "reading": settings.reading(),
        "encoder": {
            "name": encoder.name,
            "weights_sha256": encoder.weights_sha256,
            "finder_sha256": getattr(encoder, "finder_sha256", None),
            "preprocessing": encoder.preprocessing,
            "dim": encoder.dim,
            "licence": encoder.licence,
        },
        "people_registry": registry,
        "versions": versions,
        "shard": list(shard),
        GIVEN: settings.as_dict(),
    }


def _outside(settings: BuildSettings, target: Path) -> None:
    """Refuse to write among the photos, where the next build would find what this one left."""
    place = Path(settings.source).expanduser()
    if place.is_dir() and target.resolve().is_relative_to(place.resolve()):
        raise OutputError(f"{target} lies in the source {settings.source}: choose a place outside of it")
