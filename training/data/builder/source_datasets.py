"""What the library ``datasets`` reads: hub ids, parquet and arrow files, datasets saved to disk.

Rows are read by number from files mapped into memory, pictures as the bytes that were stored: opening them is
left to our own code, so that one damaged picture does not end the reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, MissingWeights, PhotoError, UnknownName, first_line
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.source import CAPTIONS, SUFFIXES, SourcePhoto

_COLUMNS = (*CAPTIONS, "consent", "licence", "license", "source", "url")
_MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class DatasetsSource:
    """One split of a dataset with a column of pictures.

    Raises:
        BadInput: it cannot be read, or has no such split or column.
        MissingWeights: ``datasets`` is not installed.
    """

    kind = "datasets"

    def __init__(self, settings: BuildSettings):
        data = _load(settings)
        self.image_column = _image_column(data, settings)
        wanted = [
            self.image_column,
            *((settings.caption_column,) if settings.caption_column else ()),
            *_COLUMNS,
        ]
        if settings.caption_column and settings.caption_column not in data.column_names:
            raise UnknownName("column", settings.caption_column, data.column_names)
        # Other columns might be pictures, too, and would be decoded for nothing.
        data = data.select_columns([name for name in dict.fromkeys(wanted) if name in data.column_names])
        import datasets

        with _reading(settings.source):
            self._rows: Any = data.cast_column(self.image_column, datasets.Image(decode=False))
        digest = hashlib.sha256(f"{len(self._rows)} {self._rows.column_names}".encode())
        # Sizes of all pictures would have to be read from the whole dataset; three of them tell it, too.
        for index in sorted({0, len(self._rows) // 2, len(self._rows) - 1}) if len(self._rows) else ():
            digest.update(repr(self._rows[index]).encode())
        self.listing = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"{index:08d}"

    def read(self, index: int) -> SourcePhoto:
        try:
            row: dict[str, Any] = dict(self._rows[index])
        except Exception as error:  # arrow and the decoders of columns share no error
            raise PhotoError(f"the row cannot be read: {first_line(error)}") from error
        picture = row.pop(self.image_column) or {}
        data: bytes | None = picture.get("bytes")
        path: str = picture.get("path") or ""
        if data is None and not path:
            raise PhotoError("the row has no picture")
        suffix = Path(path).suffix.lower()
        if suffix not in SUFFIXES:
            suffix = _suffix(data or b"")
        return SourcePhoto(self.name(index) + suffix, Path(path) if data is None else data, row)


def _load(settings: BuildSettings) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingWeights(
            f"reading {settings.source} needs the package datasets: pip install 'idpersona[train]'"
        ) from error
    datasets.disable_progress_bars()
    place = Path(settings.source).expanduser()
    split = settings.split
    with _reading(settings.source):
        if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
            data: Any = datasets.load_from_disk(str(place))
        elif place.exists():
            files = (
                [place]
                if place.is_file()
                else sorted(place.rglob("*.parquet")) or sorted(place.rglob("*.arrow"))
            )
            kind = files[0].suffix[1:] if files else "parquet"
            data = datasets.load_dataset(kind, data_files=[str(file) for file in files])
            split = "train"  # the loader's name for files that are given
        else:
            data = datasets.load_dataset(settings.source)
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UnknownName("split", split, [str(name) for name in data])
        return data[split]
    return data


@contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises what arrow, fsspec and the hub's client raise
        raise BadInput(f"{source} cannot be read by datasets: {first_line(error)}") from error


def _image_column(data: Any, settings: BuildSettings) -> str:
    import datasets

    if settings.image_column:
        if settings.image_column not in data.column_names:
            raise UnknownName("column", settings.image_column, data.column_names)
        return settings.image_column
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            return str(name)
    # Parquet files of other makers hold pictures as plain bytes, or as bytes and path.
    for name in ("image", "jpg", "png", "webp", "img"):
        if name in data.column_names:
            return name
    raise BadInput(
        f"{settings.source} has no column of pictures: name it with --image-column; columns: "
        + ", ".join(data.column_names)
    )


def _suffix(data: bytes) -> str:
    """Ending of a picture's file by its first bytes; ``.img`` where they say nothing."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:8] == b"ftyp":
        return ".avif" if data[8:11] == b"avi" else ".heic"
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), ".img")
