"""Chunks, read by several processes.

``concurrent.futures`` over chunks of fixed size: which process reads a chunk changes nothing in it, and a
chunk that is done stays done. ``datasets.map`` keeps whole shards only and splits by the number of processes;
Ray and accelerate bring a cluster or devices, where machines need no more than a number each (``--shard``).
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from idpersona.encoders.base import FaceEncoder, tells_people_apart
from idpersona.encoders.catalogue import encoder_subject, get_encoder
from idpersona.errors import BadInput, IdPersonaError
from idpersona.safety.people import People
from idpersona.training.data.builder.chunks import Job, read_chunk
from idpersona.training.data.builder.look import Looker
from idpersona.training.data.builder.rules import make_rules
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.source import Source

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """All that a process needs to read chunks; ``folder`` is where they go."""

    source: Source
    settings: BuildSettings
    people: People
    folder: Path


_looker: Looker | None = None
_folder = Path()


def face_encoder(name: str) -> FaceEncoder:
    """A face encoder of the registry; raises BadInput for one of whole pictures."""
    # Asked by name first: weights need not be here to say that they are the wrong ones.
    encoder = get_encoder(name) if encoder_subject(name) == "face" else None
    if not isinstance(encoder, FaceEncoder):
        raise BadInput(f"encoder '{name}' does not read faces: choose dlib, antelopev2 or buffalo_l")
    if not tells_people_apart(encoder):
        raise BadInput(f"encoder '{name}' does not tell people apart: choose dlib, antelopev2 or buffalo_l")
    return encoder


def read_chunks(task: Task, jobs: Sequence[Job], workers: int, on_photos: Callable[[int], object]) -> None:
    """Read the chunks of ``jobs`` with ``workers`` processes; ``on_photos`` hears how many photos were added.

    One process is used for one worker, too: alone or among others, it computes in the same surroundings.

    Raises:
        BadInput: a process died.
        IdPersonaError, OSError: as the reading raised them.
    """
    if not jobs:
        return
    waiting = iter(jobs)
    under_way: dict[Future[None], Job] = {}
    with (
        _one_thread_each(),
        ProcessPoolExecutor(
            min(workers, len(jobs)), multiprocessing.get_context("spawn"), _start, (task,)
        ) as pool,
    ):
        try:
            while True:
                # One more than there are processes, so that none has to wait for its next.
                while len(under_way) <= workers and (job := next(waiting, None)) is not None:
                    under_way[pool.submit(_read, job)] = job
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    job = under_way.pop(future)
                    future.result()
                    on_photos(job.stop - job.start)
        except BrokenProcessPool as error:
            first = min(job.start for job in under_way.values())
            last = max(job.stop for job in under_way.values()) - 1
            raise BadInput(
                f"a process died while photos between {task.source.name(first)} and {task.source.name(last)} "
                "were read, most often for want of memory: run the same again with fewer --workers, what was "
                "finished is kept; if it dies there again, take out the photo that kills it"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(task: Task) -> None:
    """Set up a process: the encoder is loaded once, and it ends when the main process does."""
    global _looker, _folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    rules = make_rules(task.settings, task.people)
    _looker = Looker(task.source, task.settings, rules, face_encoder(task.settings.encoder))
    _folder = task.folder


def _end_with(sentinel: int) -> None:
    # A main process that was killed tells nobody, and those it started would wait for work for ever.
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _read(job: Job) -> None:
    assert _looker is not None
    try:
        read_chunk(_looker, job, _folder)
    except IdPersonaError as error:
        # Some of our errors are made of more than a text, and would not survive the way to the main process.
        raise BadInput(str(error)) from None


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started here compute with one thread: many would wait for each other, and add
    numbers in another order."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
