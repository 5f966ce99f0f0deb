"""Build a dataset of many real photos: speed by processes, equality, and what a kill in the middle costs.

``python benchmarks/dataset_build.py --photos 10000`` packs photos of the development data (IDPERSONA_DATA)
with captions into a tar shard outside of the repository, builds a dataset of it with one and with two
processes, compares the two file by file, kills a third build with SIGKILL when half is read and starts it
again, and compares what became of it, too. The groups of photos that the build takes for one person are
measured against the people in the data's table. ``--runs`` chooses some of the runs; ``--groups`` measures
the grouping alone, on the descriptors of all photos.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idpersona.errors import BadInput
from idpersona.training.data.archives import PhotoStore, data_root, read_table
from idpersona.training.data.builder.chunks import CHUNK
from idpersona.training.data.builder.grouping import group
from idpersona.training.data.builder.nearness import encoder_space, neighbours
from idpersona.training.data.builder.place import partial
from idpersona.training.data.builder.table import METADATA
from idpersona.training.data.faces import FaceData

SOURCES = ("celeba_wild", "lfw")
LIMITS = ("--min-side", "128", "--consent", "--licence", "research only")


def pack(photos: int, place: Path) -> dict[str, str]:
    """Write the first photos of each source, half and half, as one shard; name in it -> person."""
    root = data_root()
    table = read_table(root)
    rows = {source: [row for row in table if row["source"] == source] for source in SOURCES}
    chosen = [row for source in SOURCES for row in rows[source][: photos // 2]]
    if len(chosen) < 2 * (photos // 2):
        raise BadInput(f"{root} has {len(chosen)} photos of {', '.join(SOURCES)}, and {photos} are wanted")
    store = PhotoStore(root, SOURCES)
    people: dict[str, str] = {}
    with tarfile.open(place / "photos.tar", "w") as tar:
        for row in chosen:
            stream = io.BytesIO()
            # Stored again without loss, because the store gives pictures and not files.
            store.open(row["file"]).save(stream, "PNG", compress_level=1)
            # In a shard, a name ends at its first dot.
            key = row["file"].removesuffix(".jpg").replace(".", "-")
            caption = {"1": "a photo of a man", "0": "a photo of a woman"}.get(row["Male"], "a photo")
            for end, data in (("png", stream.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{key}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            people[f"photos/{key}.png"] = row["identity"]
    return people


def command(place: Path, name: str, workers: int) -> list[str]:
    """The command that builds the dataset ``name``."""
    words = [sys.executable, "-m", "idpersona", "dataset", "build", str(place / "photos.tar")]
    return [*words, "-o", str(place / name), "--workers", str(workers), *LIMITS]


def contents(folder: Path) -> str:
    """One hash over names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(
            f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


def timed(words: list[str]) -> float:
    """Seconds that a command took; its own words go to stderr."""
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def killed(place: Path, photos: int, workers: int) -> dict[str, Any]:
    """Kill a build when half of its chunks are there, start it again, and say what it kept."""
    words = command(place, "killed", workers)
    work = partial(place / "killed") / "chunks"
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=sys.stderr)
    half = photos // CHUNK // 2
    while not work.is_dir() or sum(path.name.isdigit() for path in work.iterdir()) < half:
        if process.poll() is not None:
            raise BadInput("the build ended before it could be killed: take more --photos")
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = time.perf_counter() - start
    time.sleep(2)  # the processes it started end by themselves
    done = sum(path.name.isdigit() for path in work.iterdir())
    return {"seconds_before": before, "photos_kept": done * CHUNK, "seconds_after": timed(words)}


def agreement(pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """How well groups agree with people, of each photo's (group, person).

    ``pair_precision`` and ``pair_recall`` count pairs of photos in one group and of one person;
    ``partners_right`` is the share of right ones among a photo's partners, over the photos that have any;
    ``found_a_partner`` is the share of photos with another photo of their person that are grouped with one.
    """
    groups, owners, both = Counter(g for g, _ in pairs), Counter(p for _, p in pairs), Counter(pairs)

    def two(counts: Counter[Any]) -> int:
        return sum(count * (count - 1) // 2 for count in counts.values())

    right = [(both[g, p] - 1) / (groups[g] - 1) for g, p in pairs if groups[g] > 1]
    found = [both[g, p] > 1 for g, p in pairs if owners[p] > 1]
    return {
        "photos": len(pairs),
        "people": len(owners),
        "groups": len(groups),
        "pair_precision": two(both) / max(two(groups), 1),
        "pair_recall": two(both) / max(two(owners), 1),
        "partners_right": sum(right) / max(len(right), 1),
        "found_a_partner": sum(found) / max(len(found), 1),
    }


def built_groups(folder: Path, people: dict[str, str]) -> dict[str, float]:
    """:func:`agreement` of a dataset with the people of the table."""
    rows = [json.loads(line) for line in (folder / METADATA).read_text().splitlines()]
    return agreement([(row["identity"], people[row["source"]]) for row in rows])


def all_groups() -> dict[str, dict[str, float]]:
    """:func:`agreement` of the descriptors of all development photos, by set; needs the prepared cache."""
    space, faces = encoder_space("dlib", None), FaceData.open("all")
    found: dict[str, dict[str, float]] = {}
    for name, sources in (("lfw", (1,)), ("celeba_wild", (0,)), ("celeba_wild and celeba_aligned", (0, 2))):
        rows = np.isin(faces.sources, sources)
        points = space.points(faces.descriptors[rows])
        labels = group(points, neighbours(points, space.limit), space.limit)
        found[name] = agreement(list(zip(labels.tolist(), faces.identities[rows].tolist(), strict=True)))
    return found


def main() -> int:
    """Command line of this script; status 1 when two runs differ or less than half of the photos is kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument(
        "--runs", nargs="+", default=["one", "two", "killed"], choices=["one", "two", "killed"]
    )
    parser.add_argument(
        "--keep", type=Path, help="an empty folder for the datasets, outside of the repository"
    )
    parser.add_argument("--groups", action="store_true", help="only measure grouping, on the prepared cache")
    arguments = parser.parse_args()
    if arguments.groups:
        print(json.dumps(all_groups(), indent=1))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        people = pack(arguments.photos, place)
        photos = len(people)
        report: dict[str, Any] = {"photos": photos}
        hashes: dict[str, str] = {}
        for name, workers in (("one", 1), ("two", 2)):
            if name in arguments.runs:
                seconds = timed(command(place, name, workers))
                report[name] = {"workers": workers, "seconds": seconds, "files_per_second": photos / seconds}
                hashes[name] = contents(place / name)
        if "killed" in arguments.runs:
            report["killed"] = killed(place, photos, 2)
            hashes["killed"] = contents(place / "killed")
        first = place / next(iter(hashes))
        report["counts"] = json.loads((first / "dataset.json").read_text())["counts"]
        report["grouping"] = built_groups(first, people)
        report["equal"] = len(set(hashes.values())) == 1
        checked = subprocess.run(
            [sys.executable, "-m", "idpersona", "dataset", "check", str(first), "--hashes"], stdout=sys.stderr
        )
        report["checked"] = checked.returncode == 0
    print(json.dumps(report, indent=1))
    sound = report["equal"] and report["checked"] and 2 * report["counts"]["kept"] >= photos
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
