"""From what was read of every photo alone to the dataset: near-duplicates, people, pairs, files."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idpersona.errors import OutputError
from idpersona.hashing import file_sha256
from idpersona.images import open_photo
from idpersona.training.data.builder.chunks import Chunk
from idpersona.training.data.builder.duplicates import LIMITS, find_duplicates
from idpersona.training.data.builder.grouping import DOUBT, group
from idpersona.training.data.builder.look import link_or_copy, thumbnail
from idpersona.training.data.builder.nearness import Neighbours, Space, encoder_space, neighbours
from idpersona.training.data.builder.pairs import make_pairs
from idpersona.training.data.builder.place import DATASET, write_json
from idpersona.training.data.builder.report import Shown, write_report
from idpersona.training.data.builder.rules import ORDER
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.table import METADATA, PAIRS, REJECTED, REPORT, write_lines
from idpersona.training.data.builder.vectors import ROWS, embedding_name, write_shard

FORMAT = 1
"""Version of a dataset's layout."""
_SHOWN_KEPT, _SHOWN_REJECTED = 12, 3


@dataclass(frozen=True)
class _Photo:
    """A photo that the rules kept: its file, its row and where its picture lies now."""

    file: str
    row: dict[str, Any]
    picture: Path


def finish(
    chunks: Sequence[Chunk], settings: BuildSettings, run: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Write the dataset of all ``chunks`` to the new folder ``out`` and return what ``dataset.json`` holds.

    Args:
        chunks: in the order of the source.
        settings: of the build.
        run: of the reading: source, encoder, versions.
        out: folder to make; removed first if it is there.

    Raises:
        BadInput: the encoder has no threshold.
        OutputError: a picture has gone meanwhile.
    """
    space = encoder_space(settings.encoder, settings.same_person)
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    rejected = [record for chunk in chunks for record in chunk.records if "row" not in record]
    photos = [
        _Photo(
            record["file"],
            record["row"],
            Path(record.get("path") or chunk.folder / "pictures" / record["file"]),
        )
        for chunk in chunks
        for record in chunk.records
        if "row" in record
    ]
    vectors = np.concatenate([chunk.vectors for chunk in chunks])
    points = space.points(vectors)
    near = neighbours(points, space.limit)
    keep = np.ones(len(photos), bool)
    if not settings.keep_duplicates:
        hashes = np.concatenate([chunk.hashes for chunk in chunks])
        gone = _duplicates(photos, hashes, near, space)
        keep[list(gone)] = False
        rejected += [_duplicate(photos[photo], photos[other]) for photo, other in gone.items()]
    staying = [photo for photo, stays in zip(photos, keep, strict=True) if stays]
    points, vectors, near = points[keep], vectors[keep], near.among(keep)
    people = group(points, near, space.limit)
    for photo, person in zip(staying, people.tolist(), strict=True):
        photo.row["identity"] = f"person-{person + 1:06d}"
        _place_picture(photo, out / photo.row["file_name"], link=settings.link)
    rejected.sort(key=lambda record: record["file"])
    return _write(out, staying, rejected, points, vectors, space, settings, run)


def _write(
    out: Path,
    photos: Sequence[_Photo],
    rejected: Sequence[dict[str, Any]],
    points: np.ndarray,
    vectors: np.ndarray,
    space: Space,
    settings: BuildSettings,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    rows = [_ordered(photo.row) for photo in photos]
    write_lines(out / METADATA, rows)
    write_lines(out / REJECTED, ({k: r[k] for k in ("file", "rule", "reason")} for r in rejected))
    files, people = [row["file_name"] for row in rows], [row["identity"] for row in rows]
    pairs = write_lines(out / PAIRS, make_pairs(files, people, points, space, settings.pairs_per_photo))
    encoder = run["encoder"]
    about = {k: str(encoder[k]) for k in ("name", "weights_sha256", "preprocessing")} | {
        "measure": space.measure
    }
    for number, first in enumerate(range(0, len(rows), ROWS)):
        path = out / embedding_name(encoder["name"], encoder["weights_sha256"], number)
        hashes = [row["sha256"] for row in rows[first : first + ROWS]]
        write_shard(path, {"embeddings": vectors[first : first + ROWS]}, hashes, first, about)
    sizes = Counter(people)
    refused = Counter(record["rule"] for record in rejected)
    about_dataset = {
        "format": FORMAT,
        **{k: run[k] for k in ("source", "encoder", "people_registry", "versions")},
        "settings": settings.as_dict(),
        "rules": ORDER,
        "same_person": {
            "measure": space.measure,
            "distance": space.same_person,
            "calibrated": space.calibrated,
            "stricter_for_single_photos": DOUBT,
        },
        "near_duplicates": None
        if settings.keep_duplicates
        else [{"bits": bits, "distance": part * space.limit} for bits, part in LIMITS],
        "counts": {
            "photos": len(rows) + len(rejected),
            "kept": len(rows),
            "rejected": {rule: refused[rule] for rule in ORDER if refused[rule]},
            "identities": len(sizes),
            "identities_with_pairs": sum(size > 1 for size in sizes.values()),
            "pairs": pairs,
            "with_consent": sum(row["consent"] for row in rows),
        },
    }
    write_report(out / REPORT, about_dataset, rows, _shown(photos, rejected))
    made = sorted(path for path in out.iterdir() if path.is_file())
    about_dataset["files"] = {path.name: file_sha256(path) for path in made}
    write_json(out / DATASET, about_dataset)
    return about_dataset


def _duplicates(
    photos: Sequence[_Photo], hashes: np.ndarray, near: Neighbours, space: Space
) -> dict[int, int]:
    pixels = [photo.row["width"] * photo.row["height"] for photo in photos]
    return find_duplicates(hashes, near, space.limit, pixels, [photo.file for photo in photos])


def _duplicate(photo: _Photo, other: _Photo) -> dict[str, Any]:
    reason = f"near-duplicate of {other.file}"
    return {"file": photo.file, "rule": "near-duplicate", "reason": reason, "picture": photo.picture}


def _ordered(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its identity where readers look for it, before the hash."""
    names = [name for name in row if name != "identity"]
    names.insert(names.index("sha256"), "identity")
    return {name: row[name] for name in names}


def _place_picture(photo: _Photo, place: Path, *, link: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not photo.picture.is_file():
        raise OutputError(f"{photo.picture} has gone since it was read: put it back and run the same again")
    if link:
        place.symlink_to(photo.picture)
    else:
        link_or_copy(photo.picture, place)


def _shown(photos: Sequence[_Photo], rejected: Sequence[dict[str, Any]]) -> list[Shown]:
    """A few kept photos, evenly from all, and the first rejected ones of each rule."""
    step = max(1, len(photos) // _SHOWN_KEPT)
    shown = [Shown("", p.file, p.row["caption"], _small(p.picture)) for p in photos[::step][:_SHOWN_KEPT]]
    counts: Counter[str] = Counter()
    for record in rejected:
        rule = record["rule"]
        if counts[rule] == _SHOWN_REJECTED or not {"thumbnail", "picture"} & record.keys():
            continue
        counts[rule] += 1
        picture = record.get("thumbnail") or _small(record["picture"])
        shown.append(Shown(rule, record["file"], record["reason"], picture))
    return shown


def _small(path: Path) -> str:
    return thumbnail(open_photo(path, min_side=1))
