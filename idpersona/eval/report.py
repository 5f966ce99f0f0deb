"""What an evaluation leaves behind: one JSON with everything, one markdown table, one contact sheet."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from idpersona.errors import OutputError
from idpersona.eval.statistics import Interval
from idpersona.images import atomic_output
from idpersona.installed import package_versions
from idpersona.provenance import COMPOSITE_TYPE, write_png

if TYPE_CHECKING:
    from idpersona.encoders.attributes import AttributeClassifier
    from idpersona.eval.finders import Finder
    from idpersona.eval.judges import Judge

_PACKAGES = (
    "idpersona",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "pillow",
    "opencv-python",
    "dlib-bin",
)
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Report:
    """The result of one evaluation.

    Attributes:
        kind: of evaluation, as ``identity``; the name of its command.
        settings: the whole protocol and what else was chosen.
        weights: name -> sha256 of everything that drew, found or judged.
        rows: what the table shows, one mapping per row; values may be Interval.
        people: per-person (or per-photo, per-seed) values behind the rows.
        notes: sentences beneath the table (rankings, sizes that were reduced).
        failures: what had to be left out, one line each.
        table: markdown; sheet: picture or None.
    """

    kind: str
    settings: Mapping[str, Any]
    weights: Mapping[str, str | None]
    rows: list[dict[str, Any]]
    people: list[dict[str, Any]]
    table: str
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sheet: Image.Image | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything but the sheet, in JSON types."""
        return {
            "kind": self.kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "settings": _plain(self.settings),
            "weights": dict(self.weights),
            "rows": _plain(self.rows),
            "notes": self.notes,
            "failures": self.failures,
            "people": _plain(self.people),
        }

    def text(self) -> str:
        """The table, the notes and how many failures there were."""
        chosen = {
            name: value for name, value in self.settings.items() if name not in ("protocol", "split_sha256")
        }
        lines = [self.table, "", *self.notes]
        if chosen:
            lines.append(
                "measured: " + ", ".join(f"{name} {_plain(value)}" for name, value in chosen.items())
            )
        if self.failures:
            lines.append(f"left out: {len(self.failures)} (listed in the JSON), first: {self.failures[0]}")
        return "\n".join(lines).rstrip() + "\n"

    def write(self, folder: Path, *, force: bool = False) -> list[Path]:
        """Write ``KIND.json``, ``KIND.md`` and, if there is one, ``KIND.png``, all or none; return their
        paths.

        Raises OutputError when one exists and not ``force``, or the folder cannot be written.
        """
        check_writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = report_paths(folder, self.kind)
        paths = paths if self.sheet is not None else paths[:2]
        with ExitStack() as files:
            parts = [files.enter_context(atomic_output(path, force=force)) for path in paths]
            content = json.dumps(self.as_dict(), indent=1, allow_nan=False)
            parts[0].write_text(content + "\n", encoding="utf-8")
            parts[1].write_text(self.text(), encoding="utf-8")
            if self.sheet is not None:
                about = {"sheet": self.kind}
                write_png(self.sheet, parts[2], about, force=True, source_type=COMPOSITE_TYPE)
        return paths


def tools_sha256(
    finder: Finder, judges: Sequence[Judge] = (), classifier: AttributeClassifier | None = None
) -> dict[str, str]:
    """sha256 of what found and judged, by kind and name, for a report's ``weights``."""
    found = {f"finder:{finder.name}": finder.weights_sha256}
    found |= {f"judge:{judge.name}": judge.weights_sha256 for judge in judges}
    if classifier is not None:
        found[f"classifier:{classifier.name}"] = classifier.weights_sha256
    return found


def report_paths(folder: Path, kind: str) -> list[Path]:
    """Where the JSON, the table and the sheet of an evaluation lie."""
    return [folder / f"{kind}{suffix}" for suffix in (".json", ".md", ".png")]


def check_writable(folder: Path) -> None:
    """Try whether ``folder`` can be made and written; leaves nothing behind.

    Raises:
        OutputError: it cannot, said before hours of work rather than after them.
    """
    check_private_folder(folder)
    made: list[Path] = []
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror or error}") from error
    finally:
        for place in made:
            with suppress(OSError):  # not made after all, or in use by now
                place.rmdir()


def check_private_folder(folder: Path) -> None:
    """Refuse a folder from which photos of real people could be committed by mistake.

    Inside the repository only folders that git ignores will do; anywhere else is the user's own affair.

    Raises:
        OutputError: the folder lies in the repository and git does not ignore it.
    """
    place = folder.resolve()
    if not place.is_relative_to(_REPOSITORY) or not (_REPOSITORY / ".git").exists():
        return
    probe = place / "sheet.png"
    answer = subprocess.run(
        ["git", "-C", str(_REPOSITORY), "check-ignore", "-q", str(probe)], check=False, capture_output=True
    )
    if answer.returncode != 0:
        raise OutputError(
            f"{folder} is part of the repository: a sheet with photos of real people must go into an ignored "
            "folder, e.g. --output reports/identity"
        )


def versions() -> dict[str, str]:
    """Versions of what can change a number."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | package_versions(_PACKAGES)


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return value.item() if isinstance(value, np.generic) else value
