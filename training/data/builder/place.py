"""The folder a build writes to: first ``DST.partial``, which a restarted build goes on with, then ``DST``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from idpersona.errors import BadInput, OutputError

RUN = "run.json"
"""Of a started build or a finished part of one: what it reads, and how."""
GIVEN = "given"
"""Key of the settings in it; reading depends on some of them only, which are told apart under another key."""
DATASET = "dataset.json"
"""Of a finished dataset: all about it."""
_LOCK = ".lock"


def partial(target: Path) -> Path:
    """Where the work for ``target`` lies until it is done."""
    return target.with_name(f"{target.name}.partial")


def check_target(target: Path, *, force: bool) -> None:
    """Say early whether ``target`` may become a dataset.

    Raises:
        OutputError: it is one already and not ``force``, or is something else, or its folder is missing.
    """
    if not target.name or not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: the folder {target.parent} is not writable")
    if target.is_dir() and not any(target.iterdir()):
        return
    if os.path.lexists(target):
        if not any((target / name).is_file() for name in (DATASET, RUN)):
            raise OutputError(f"{target} exists and holds no dataset: choose another name")
        if not force:
            raise OutputError(f"{target} is finished: choose another name or use --force to build it anew")


@contextmanager
def started(target: Path, run: dict[str, Any], *, force: bool) -> Iterator[Path]:
    """Open ``DST.partial`` for the build ``run``, made anew or as it was left; nobody else may have it open.

    Raises:
        BadInput: it was left by a build of other photos or settings, and not ``force``.
        OutputError: another process works in it, or it is something else.
    """
    work = partial(target)
    work.mkdir(exist_ok=True)
    lock = FileLock(work / _LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another process is building {target}: wait for it or choose another name"
        ) from error
    try:
        before = _read(work / RUN)
        different = _difference(before, run)
        foreign = [path.name for path in work.iterdir() if not path.name.startswith(".")]
        if not before and foreign:
            raise OutputError(f"{work} holds {foreign[0]} and no build: move it away or choose another name")
        if before and different and not force:
            raise BadInput(
                f"{work} was left by a build with other settings ({different}): repeat that one to go on "
                "with it, or use --force to begin anew"
            )
        if different:
            _empty(work)
        write_json(work / RUN, run)
        yield work
    finally:
        lock.release()


def _empty(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def take_place(made: Path, target: Path) -> None:
    """Rename the finished folder ``made`` to ``target``; a dataset that was there is removed afterwards."""
    (made / _LOCK).unlink(missing_ok=True)
    old = target.with_name(f".{target.name}.old{os.getpid()}")
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: object) -> None:
    """Write JSON whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json`` of a finished part. Raises BadInput when there is none."""
    run = _read(folder / RUN)
    if not run:
        raise BadInput(f"{folder} is no part of a build: make it with idpersona dataset build --shard I/N")
    return run


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing in which the reading of two builds differs, "" if in none."""
    old, new = (
        _flat({k: v for k, v in run.items() if k != GIVEN}) for run in (before, json.loads(json.dumps(now)))
    )
    for name in {**new, **old}:
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name)}, is {new.get(name)}"
    return ""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
