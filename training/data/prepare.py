"""Read the photo archives once: pixels, five keypoints and dlib descriptor of every photo, into the cache.

``python -m idpersona.training.data.prepare [--workers 2]``; finished sources are not done again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import multiprocessing
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from idpersona.errors import IdPersonaError, MissingWeights
from idpersona.training.data.faces import SOURCES, cache_root, data_root

ARCHIVES = {"celeba_wild": "faces_wild.tar", "lfw": "faces_lfw.tar", "celeba_aligned": "faces_aligned.tar"}
# Where the subject's face lies in each set (centre x, y and width as parts of the picture): bystanders are not taken.
_FACE = {"celeba_wild": (0.50, 0.55, 0.52), "lfw": (0.50, 0.55, 0.57), "celeba_aligned": (0.50, 0.60, 0.53)}


def read_table(root: Path) -> list[dict[str, str]]:
    """Rows of ``faces.csv.gz``. Raises MissingWeights where the data are not there."""
    path = root / "faces.csv.gz"
    if not path.is_file():
        raise MissingWeights(f"no {path}: set IDPERSONA_DATA to the folder that holds the photo archives")
    with gzip.open(path, "rt") as stream:
        return list(csv.DictReader(stream))


def unpack(source: str, files: list[str], root: Path, target: Path) -> None:
    """Decode the photos ``files`` of one archive into one array file uint8 [N, H, W, 3]."""
    place = {name: i for i, name in enumerate(files)}
    array: np.ndarray | None = None
    partial = target.with_suffix(".partial.npy")
    with tarfile.open(root / ARCHIVES[source]) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if name not in place:
                continue
            stream = archive.extractfile(member)
            if stream is None:
                continue
            pixels = np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"))
            if array is None:
                array = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(files), *pixels.shape))
            array[place.pop(name)] = pixels
    if array is None or place:
        raise MissingWeights(f"{root / ARCHIVES[source]} lacks {len(place)} photos, first {next(iter(place), '')}")
    array.flush()
    partial.replace(target)


def describe(job: tuple[str, Path, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints [n, 5, 2], descriptors [n, 128] and found [n] of the photos start..stop of one array file."""
    from idpersona.encoders import get_encoder

    source, path, start, stop = job
    encoder = get_encoder("dlib")
    photos = np.load(path, mmap_mode="r")[start:stop]
    keypoints = np.zeros((len(photos), 5, 2), np.float32)
    descriptors = np.zeros((len(photos), 128), np.float32)
    found = np.zeros(len(photos), bool)
    x, y, width = _FACE[source]
    for row, pixels in enumerate(photos):
        image = Image.fromarray(np.asarray(pixels))
        centre = np.array([x * image.width, y * image.height])
        near = []
        for face in encoder.detect(image):
            middle = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2
            distance = float(np.linalg.norm(middle - centre))
            if distance < width * image.width / 2 and face.box[2] - face.box[0] > 0.55 * width * image.width:
                near.append((distance, face))
        if near:
            face = min(near, key=lambda pair: pair[0])[1]
            keypoints[row], descriptors[row], found[row] = face.keypoints, encoder.embed(image, face), True
    return keypoints, descriptors, found


def prepare(workers: int) -> Path:
    """Fill the cache and return its folder."""
    root, cache = data_root(), cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    rows = read_table(root)
    names = list(rows[0])[3:]
    sources = np.array([SOURCES.index(r["source"]) for r in rows], np.uint8)
    keypoints = np.zeros((len(rows), 5, 2), np.float32)
    descriptors = np.zeros((len(rows), 128), np.float32)
    found = np.zeros(len(rows), bool)
    places = np.zeros(len(rows), np.int32)
    for number, source in enumerate(SOURCES):
        mine = np.flatnonzero(sources == number)
        places[mine] = np.arange(len(mine))
        pixels, result = cache / f"{source}.npy", cache / f"{source}.faces.npz"
        if not pixels.is_file():
            unpack(source, [rows[i]["file"] for i in mine], root, pixels)
        if not result.is_file():
            jobs = [(source, pixels, s, min(s + 200, len(mine))) for s in range(0, len(mine), 200)]
            parts = []
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                for done, part in enumerate(pool.imap(describe, jobs), 1):
                    parts.append(part)
                    print(f"{source}: {min(done * 200, len(mine))}/{len(mine)} photos", file=sys.stderr, flush=True)
            columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
            np.savez(result, keypoints=columns[0], descriptors=columns[1], found=columns[2])
        stored = np.load(result)
        keypoints[mine], descriptors[mine], found[mine] = (stored[k] for k in ("keypoints", "descriptors", "found"))
    partial = cache / "faces.partial.npz"
    np.savez(
        partial,
        files=np.array([r["file"] for r in rows]),
        sources=sources,
        identities=np.array([r["identity"] for r in rows]),
        attributes=np.array([[int(r[n]) if r[n] else -1 for n in names] for r in rows], np.int8),
        attribute_names=np.array(names),
        keypoints=keypoints,
        descriptors=descriptors,
        found=found,
        places=places,
    )
    partial.replace(cache / "faces.npz")
    return cache


def main() -> int:
    """Command line of this module; 2 on bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes that look for faces (default 2)")
    try:
        print(prepare(parser.parse_args().workers))
    except IdPersonaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
