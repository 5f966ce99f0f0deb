"""Folders of an adapter: each is written whole, or stays as it was."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from idpersona.errors import OutputError, first_line


@dataclass(frozen=True)
class Exported:
    """An adapter in a published layout.

    Attributes:
        folder: where it lies.
        fields: of the configuration, what the layout has no place for: ``load_adapter(folder, base,
            **fields)`` is the adapter again.
        notes: sentences about what other tools will not find, or will read otherwise.
    """

    folder: Path
    fields: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_folder(folder: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Say early whether a new folder can be written at ``folder``; writes nothing.

    Raises:
        OutputError: it is a file, or a folder that holds something and not ``force``.
    """
    target = Path(folder).expanduser()
    if target.is_dir():
        if not force and _names(target):
            raise OutputError(f"{target} is not empty: choose another folder or use --force (force=True)")
    elif os.path.lexists(target):
        raise OutputError(f"{target} is a file: give a folder to write to")
    return target


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@contextlib.contextmanager
def whole_folder(target: Path, head: str, *, alone: bool = False) -> Iterator[Path]:
    """Yields a new folder; when the body ends well, what is in it replaces its namesakes in ``target``.

    Args:
        head: name of the file by which the folder is known for an adapter. It goes first and comes last, so
            that a mixture of two adapters is never taken for one.
        alone: refuse, and change nothing, where something else would lie beside what was written.

    Raises:
        OutputError: it cannot be written, or would not be alone.
    """
    made = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as place:
            new, old = Path(place, "new"), Path(place, "old")
            old.mkdir()
            new.mkdir()
            yield new
            # All is on the disk now.
            names = [path.name for path in new.iterdir() if path.name != head]
            strange = _names(target) - {head, *names}
            if alone and strange:
                raise OutputError(
                    f"{target} holds {', '.join(sorted(strange)[:3])}, which would lie beside what is "
                    "written: choose another folder or remove it"
                )
            for name in (head, *names):
                if (target / name).exists():
                    (target / name).rename(old / name)
            for name in (*names, head):
                (new / name).rename(target / name)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own
        raise OutputError(f"cannot write the adapter to {target}: {first_line(error)}") from error
    finally:
        if made and target.is_dir() and not any(target.iterdir()):
            target.rmdir()
