"""Read the photo archives once: pixels, five keypoints and dlib descriptor of every photo, into the cache.

``python -m idpersona.training.data.prepare [--workers 2]``; finished sources are not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image

from idpersona.encoders.base import Face
from idpersona.errors import BadInput, MissingWeights
from idpersona.training.command import exit_status
from idpersona.training.data.archives import (
    ARCHIVES,
    SOURCES,
    PhotoStore,
    attribute_names,
    data_root,
    read_table,
)
from idpersona.training.data.faces import cache_root

# Where the subject's face lies in each set (centre x, y and width as parts of the picture): bystanders are
# not taken for it.
_FACE = {"celeba_wild": (0.50, 0.55, 0.52), "lfw": (0.50, 0.55, 0.57), "celeba_aligned": (0.50, 0.60, 0.53)}
_JOB = 200

Described = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Keypoints float32 [n, 5, 2], descriptors float32 [n, 128], found bool [n]."""


def unpack(source: str, files: list[str], root: Path, target: Path) -> None:
    """Decode the photos ``files`` of one archive into one array file uint8 [N, H, W, 3].

    Raises MissingWeights when the archive or a photo in it is not there, PhotoError when one cannot be read,
    BadInput when sizes differ.
    """
    store = PhotoStore(root, (source,))
    lacking = [file for file in files if file not in store]
    if lacking:
        raise MissingWeights(f"{root / ARCHIVES[source]} lacks {len(lacking)} photos, first {lacking[0]}")
    partial = target.with_suffix(".partial.npy")
    shape = np.asarray(store.open(files[0])).shape
    array = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(files), *shape))
    for place, file in enumerate(files):
        pixels = np.asarray(store.open(file))
        if pixels.shape != shape:
            raise BadInput(f"{file} in {ARCHIVES[source]} is {pixels.shape}, the photos before it {shape}")
        array[place] = pixels
    array.flush()
    partial.replace(target)


def describe(job: tuple[str, Path, int, int]) -> Described:
    """What dlib says of the photos start..stop of one array file; ``job`` is (source, path, start, stop)."""
    from idpersona.encoders.dlib_face import DlibFaceEncoder

    source, path, start, stop = job
    encoder = DlibFaceEncoder()
    photos = np.load(path, mmap_mode="r")[start:stop]
    keypoints = np.zeros((len(photos), 5, 2), np.float32)
    descriptors = np.zeros((len(photos), 128), np.float32)
    found = np.zeros(len(photos), bool)
    x, y, width = _FACE[source]
    for row, pixels in enumerate(photos):
        image = Image.fromarray(np.asarray(pixels))
        centre = np.array([x * image.width, y * image.height])
        near: list[tuple[float, Face]] = []
        for face in encoder.detect(image):
            middle = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2
            distance = float(np.linalg.norm(middle - centre))
            if distance < width * image.width / 2 and face.box[2] - face.box[0] > 0.55 * width * image.width:
                near.append((distance, face))
        if near:
            face = min(near, key=itemgetter(0))[1]
            keypoints[row], descriptors[row], found[row] = face.keypoints, encoder.embed(image, face), True
    return keypoints, descriptors, found


def describe_all(source: str, pixels: Path, count: int, workers: int) -> Described:
    """``describe`` over the ``count`` photos of one array file, in several processes; tells how far it is."""
    jobs = [(source, pixels, start, min(start + _JOB, count)) for start in range(0, count, _JOB)]
    parts: list[Described] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for part in pool.imap(describe, jobs):
            parts.append(part)
            done = sum(len(found) for *_, found in parts)
            print(f"{source}: {done}/{count} photos", file=sys.stderr, flush=True)
    keypoints, descriptors, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    return keypoints, descriptors, found


def fingerprint(files: list[str]) -> str:
    """Of the photos of one archive in the order of the table, which that of the arrays' rows is."""
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


def prepare(workers: int) -> Path:
    """Fill the cache and return its folder.

    Raises MissingWeights when the archives are not all there, BadInput when the cache was made of other ones.
    """
    root, cache = data_root(), cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    rows = read_table(root)
    names = attribute_names(rows)
    sources = np.array([SOURCES.index(r["source"]) for r in rows], np.uint8)
    keypoints = np.zeros((len(rows), 5, 2), np.float32)
    descriptors = np.zeros((len(rows), 128), np.float32)
    found = np.zeros(len(rows), bool)
    places = np.zeros(len(rows), np.int32)
    for number, source in enumerate(SOURCES):
        mine = np.flatnonzero(sources == number)
        places[mine] = np.arange(len(mine))
        pixels, result = cache / f"{source}.npy", cache / f"{source}.faces.npz"
        files = [rows[i]["file"] for i in mine]
        made_of, listed = fingerprint(files), cache / f"{source}.sha256"
        if not pixels.is_file():
            # First, because the pixels take their place whole or not at all, and must not be without it.
            listed.write_text(made_of)
            unpack(source, files, root, pixels)
        # Row for row the arrays follow the table: of another one they would give people each other's faces.
        if not listed.is_file():
            raise BadInput(f"{pixels} says nowhere what it was made of: delete {cache}")
        if listed.read_text() != made_of:
            raise BadInput(f"{pixels} was made of other archives than those in {root}: delete {cache}")
        if not result.is_file():
            part = describe_all(source, pixels, len(mine), workers)
            _save(result, keypoints=part[0], descriptors=part[1], found=part[2], made_of=np.array(made_of))
        stored = np.load(result)
        if "made_of" not in stored or str(stored["made_of"]) != made_of:
            raise BadInput(f"{result} was made of other archives than those in {root}: delete {cache}")
        keypoints[mine], descriptors[mine] = stored["keypoints"], stored["descriptors"]
        found[mine] = stored["found"]
    _save(
        cache / "faces.npz",
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
    return cache


def _save(path: Path, **arrays: np.ndarray) -> None:
    partial = path.with_name("partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)


def main() -> int:
    """Command line of this module; 2 on bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that look for faces (default 2)")
    arguments = parser.parse_args()
    return exit_status(lambda: print(prepare(arguments.workers)))


if __name__ == "__main__":
    sys.exit(main())
