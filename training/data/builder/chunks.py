"""What was read of a fixed number of photos, in one folder that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from idpersona.errors import BadInput
from idpersona.training.data.builder.look import Looker, Outcome, thumbnail
from idpersona.training.data.builder.rules import UNSHOWN

CHUNK = 32
"""Photos of a chunk. A process that is killed loses what it read of one, about half a minute at most."""
SHOWN, SHOWING = 2, 64
"""Rejected photos of each rule that a chunk keeps a thumbnail of, and the first chunks, which alone do so."""


@dataclass(frozen=True)
class Job:
    """The photos ``start`` to ``stop - 1`` of the source, as chunk ``number``."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:07d}"


def make_jobs(photos: int, shard: tuple[int, int] = (1, 1)) -> list[Job]:
    """Chunks of a source, or those of part ``shard[0]`` of ``shard[1]``, which takes every N-th."""
    jobs = [
        Job(number, start, min(start + CHUNK, photos)) for number, start in enumerate(range(0, photos, CHUNK))
    ]
    return jobs[shard[0] - 1 :: shard[1]]


def read_chunk(looker: Looker, job: Job, folder: Path) -> None:
    """Look at the photos of ``job`` and put what was found into ``folder/NAME``."""
    # The process's number keeps one that was left behind by a kill out of this one's way.
    part = folder / f"{job.name}.part{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    pictures = part / "pictures"
    pictures.mkdir(parents=True)
    outcomes = [looker.look(index, pictures) for index in range(job.start, job.stop)]
    _write(part, outcomes, looker.encoder.dim, SHOWN if job.number < SHOWING else 0)
    part.rename(folder / job.name)


def _write(part: Path, outcomes: Sequence[Outcome], dim: int, most: int) -> None:
    shown: dict[str, int] = {}
    lines: list[str] = []
    for outcome in outcomes:
        record = outcome.record
        rule = record.get("rule", "")
        if outcome.picture is not None and rule not in UNSHOWN and shown.get(rule, 0) < most:
            shown[rule] = shown.get(rule, 0) + 1
            record = {**record, "thumbnail": thumbnail(outcome.picture)}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    (part / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    vectors = [outcome.vector for outcome in outcomes if outcome.vector is not None]
    hashes = [outcome.hashes for outcome in outcomes if outcome.hashes is not None]
    arrays = {
        "vectors": np.stack(vectors) if vectors else np.zeros((0, dim), np.float32),
        "hashes": np.stack(hashes) if hashes else np.zeros((0, 2, 8), np.uint8),
    }
    save_file(arrays, part / "arrays.safetensors")


@dataclass(frozen=True)
class Chunk:
    """What is in a chunk's folder; ``vectors`` [kept, dim] and ``hashes`` [kept, 2, 8] as in Outcome."""

    folder: Path
    records: list[dict[str, Any]]
    vectors: np.ndarray
    hashes: np.ndarray


def load_chunk(folder: Path, job: Job) -> Chunk:
    """A finished chunk. Raises BadInput when it is damaged."""
    place = folder / job.name
    try:
        with (place / "records.jsonl").open(encoding="utf-8") as stream:
            records = [json.loads(line) for line in stream]
        arrays = load_file(place / "arrays.safetensors")
        chunk = Chunk(place, records, arrays["vectors"], arrays["hashes"])
    except Exception as error:  # hostile bytes break the reader of safetensors in its own way
        raise BadInput(
            f"{place} is damaged ({type(error).__name__}): delete it and run the same again"
        ) from error
    kept = sum("row" in record for record in records)
    if len(records) != job.stop - job.start or not kept == len(chunk.vectors) == len(chunk.hashes):
        raise BadInput(f"{place} is damaged (rows are missing): delete it and run the same again")
    return chunk


def finished(folder: Path, jobs: Sequence[Job]) -> Iterator[Job]:
    """Those of ``jobs`` that are done."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    return (job for job in jobs if job.name in names)


def discard_halves(folder: Path) -> None:
    """Remove what was left of chunks that were not finished."""
    for path in folder.glob("*.part*"):
        shutil.rmtree(path, ignore_errors=True)
