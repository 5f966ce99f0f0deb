"""A folder of pictures, captions beside them or in the table of a Hugging Face image folder.

Read here and not by the ``imagefolder`` loader of ``datasets``: that knows no captions in files of their own,
and silently leaves out every picture that its table does not name.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, PhotoError, first_line
from idpersona.training.data.builder.source import SUFFIXES, SourcePhoto, caption_of, parse_object

TABLES = ("metadata.jsonl", "metadata.csv")


class FolderSource:
    """Pictures of a folder and the folders in it, in the order of their names.

    A picture's metadata are its row in ``metadata.jsonl`` or ``metadata.csv`` (column ``file_name``, relative
    to the table), then ``NAME.json``; ``NAME.txt`` is its caption where neither has one.

    Raises:
        BadInput: a table is damaged; the line is named.
    """

    kind = "folder"

    def __init__(self, root: Path):
        self.root = root.absolute()
        if not root.is_dir():
            raise BadInput(f"{root} is no folder of pictures")
        names: set[str] = set()
        digest = hashlib.sha256()
        self._columns: dict[str, dict[str, Any]] = {}
        for folder, below, files in os.walk(self.root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            place = Path(folder)
            for name in sorted(files):
                ending = Path(name).suffix.lower()
                if name.startswith(".") or ending not in (*SUFFIXES, ".txt", ".json", ".jsonl", ".csv"):
                    continue
                short = (place / name).relative_to(self.root).as_posix()
                digest.update(f"{(place / name).stat().st_size} {short}\n".encode(errors="surrogateescape"))
                if ending in SUFFIXES:
                    names.add(short)
                elif name in TABLES:
                    self._read_table(place / name)
        # A picture that a table names and that is not there is listed, so that its absence is told.
        self._names = sorted(names | self._columns.keys())
        self.listing = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> SourcePhoto:
        name = self._names[index]
        path = self.root / name
        columns = dict(self._columns.get(name, {}))
        try:
            beside = path.with_suffix(".json")
            if beside.is_file():
                columns = {**parse_object(beside.read_bytes(), beside.name), **columns}
            text = path.with_suffix(".txt")
            if text.is_file() and not caption_of(columns, ""):
                columns["caption"] = text.read_text(encoding="utf-8")
        except (BadInput, OSError, UnicodeDecodeError) as error:
            raise PhotoError(f"what is said of it cannot be read: {first_line(error)}") from error
        return SourcePhoto(name, path, columns)

    def _read_table(self, table: Path) -> None:
        for line, row in _rows(table):
            where = f"{table} line {line}"
            file = row.get("file_name")
            if not isinstance(file, str) or not file:
                raise BadInput(f"{where} has no file_name: name the picture, relative to the table")
            path = Path(os.path.normpath(table.parent / file))
            if not path.is_relative_to(self.root):
                raise BadInput(f"{where}: {file} lies outside of {self.root}")
            name = path.relative_to(self.root).as_posix()
            if name in self._columns:
                raise BadInput(f"{where}: {file} has a row already; take one of them out")
            self._columns[name] = row


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and row of a table of metadata."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            if table.suffix == ".csv":
                reader = csv.DictReader(stream)
                for row in reader:
                    yield reader.line_num, {k: v for k, v in row.items() if k and v not in (None, "")}
                return
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield line, parse_object(text, f"{table} line {line}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{table} cannot be read: {first_line(error)}") from error
