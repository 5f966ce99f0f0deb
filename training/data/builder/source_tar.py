"""WebDataset shards: tar archives in which files of one name before the first dot belong together.

The headers are read once and photos then by their place, so that several processes share an archive and a
restarted build skips what it has. ``webdataset`` reads a shard from its beginning only; the loader of
``datasets`` refuses shards that mix JPEG and PNG or lack a caption, and ends at the first damaged JSON.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from idpersona.errors import BadInput, PhotoError, first_line
from idpersona.images import MAX_FILE_BYTES
from idpersona.training.data.builder.source import SUFFIXES, SourcePhoto, caption_of, parse_object

_TEXTS = ("txt", "caption", "text")
_Place = tuple[int, int]


@dataclass
class _Sample:
    """Where the files of one sample stand in the archive, by ending: offset and length in bytes."""

    archive: int
    key: str
    files: dict[str, _Place] = field(default_factory=dict[str, _Place])

    @property
    def picture(self) -> str | None:
        """The ending of its picture; ``jpg`` rather than ``mask.png`` where it has both."""
        found = [end for end in self.files if f".{end.rpartition('.')[2]}" in SUFFIXES]
        return min(found, key=lambda end: end.count("."), default=None)


class TarSource:
    """Photos of one ``*.tar`` or of all below a folder, in the order of the archives' names and within them.

    ``txt`` is the caption, ``json`` holds further columns.

    Raises:
        BadInput: an archive is damaged or compressed.
    """

    kind = "webdataset"

    def __init__(self, root: Path):
        self.root = root.absolute()
        self._archives = [self.root] if root.is_file() else sorted(self.root.rglob("*.tar"))
        self._samples: list[_Sample] = []
        digest = hashlib.sha256()
        for number, path in enumerate(self._archives):
            samples = [sample for sample in _index(path, number) if sample.picture]
            self._samples += samples
            digest.update(f"{path.stat().st_size} {self._label(number)} {len(samples)}\n".encode())
        self.listing = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        sample = self._samples[index]
        return f"{self._label(sample.archive)}/{sample.key}.{sample.picture}"

    def read(self, index: int) -> SourcePhoto:
        sample = self._samples[index]
        assert sample.picture is not None
        path = self._archives[sample.archive]
        offset, length = sample.files[sample.picture]
        if length > MAX_FILE_BYTES:
            raise PhotoError(
                f"the photo has {length >> 20} MiB, more than the {MAX_FILE_BYTES >> 20} MiB allowed"
            )
        columns: dict[str, Any] = {}
        try:
            if "json" in sample.files:
                columns |= parse_object(_bytes(path, sample.files["json"]), f"{sample.key}.json")
            for end in _TEXTS:
                if end in sample.files and not caption_of(columns, ""):
                    columns["caption"] = _bytes(path, sample.files[end]).decode()
            return SourcePhoto(self.name(index), _bytes(path, (offset, length)), columns)
        except (BadInput, OSError, UnicodeDecodeError) as error:
            raise PhotoError(f"what is said of it cannot be read: {first_line(error)}") from error

    def _label(self, number: int) -> str:
        path = self._archives[number]
        label = path.name if path == self.root else path.relative_to(self.root).as_posix()
        return label.removesuffix(".tar")


def _index(path: Path, number: int) -> list[_Sample]:
    samples: list[_Sample] = []
    current: dict[str, _Sample] = {}
    used: dict[str, int] = {}
    try:
        # "r:" takes no compressed archive: in one, a photo has no place to go to.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile() or member.issparse():
                    continue
                key, end = _split(member.name)
                if key is None:
                    continue
                sample = current.get(key)
                if sample is None or end in sample.files:
                    used[key] = used.get(key, 0) + 1
                    # A second sample of one name, which the format does not forbid.
                    sample = _Sample(number, key if used[key] == 1 else f"{key}~{used[key]}")
                    samples.append(sample)
                    current[key] = sample
                sample.files[end] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        packed = path.open("rb").read(2) == b"\x1f\x8b"
        cure = "it is compressed: unpack it with gunzip" if packed else "it is damaged: copy it again"
        raise BadInput(f"{path} cannot be read as a tar archive ({first_line(error)}); {cure}") from error
    return samples


def _split(name: str) -> tuple[str | None, str]:
    """``a/b.c.jpg`` -> (``a/b``, ``c.jpg``); None for names that lead out of the archive or have no end."""
    path = PurePosixPath(name.removeprefix("./"))
    if path.is_absolute() or ".." in path.parts or not path.name or path.name.startswith("."):
        return None, ""
    stem, dot, end = path.name.partition(".")
    return (path.with_name(stem).as_posix(), end.lower()) if dot else (None, "")


def _bytes(path: Path, place: _Place) -> bytes:
    with path.open("rb") as stream:
        stream.seek(place[0])
        data = stream.read(place[1])
    if len(data) != place[1]:
        raise PhotoError("the archive ends before the photo does")
    return data
