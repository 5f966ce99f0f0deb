"""Calibrate an encoder's person threshold for a false-match rate, on photos of many people.

``python -m idpersona.eval.threshold --encoder dlib`` reads the development photos (``IDPERSONA_DATA``,
default ``../shared/data``), embeds some of each person, and stores the distance at which one in a thousand
photos of other people would wrongly count as the person.

The comparison is the one the registry makes: one photo against the centroid of *other* photos of a person.
Impostors are compared within one data set only: a person may be in two sets under different names, and such
pairs would pass for false matches.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idpersona.errors import BadInput
from idpersona.eval.progress import track
from idpersona.safety.thresholds import Threshold, centroid, distances, measure_of, store_threshold
from idpersona.training.command import exit_status
from idpersona.training.data.archives import SOURCES, PhotoStore, data_root, read_table


@dataclass(frozen=True)
class Person:
    """Descriptors of one person: ``rows`` float32 ``[n, dim]``, the data set and group they belong to."""

    rows: np.ndarray
    source: str = ""
    group: str = ""


def calibrate(
    encoder: str, people: Sequence[Person], *, fmr: float = 1e-3, enrol: int = 5, seed: int = 0
) -> Threshold:
    """Largest distance at which at most ``fmr`` of the impostor comparisons match.

    Of each person, up to ``enrol`` random photos (at most half of them) make the centroid, the others are
    probes.

    Args:
        encoder: its name; decides the measure.
        people: at least two, each with two or more descriptors.
        fmr: wanted false-match rate, in (0, 1).
        enrol: photos behind a centroid, at most.
        seed: of the random choice of photos.

    Raises:
        BadInput: too few impostor pairs to measure such a rate (at least ``10 / fmr`` are needed).
    """
    if not 0 < fmr < 1:
        raise BadInput(f"the false-match rate must lie between 0 and 1, got {fmr}")
    measure, random = measure_of(encoder), np.random.default_rng(seed)
    usable = [person for person in people if len(person.rows) >= 2]
    centres, probes = [], []
    for person in usable:
        order = random.permutation(len(person.rows))
        count = min(enrol, len(order) // 2)
        centres.append(centroid(person.rows[order[:count]], measure))
        probes.append(person.rows[order[count:]])
    owner = np.repeat(np.arange(len(usable)), [len(rows) for rows in probes])
    if len(usable) < 2:
        raise BadInput(f"calibration needs two or more people with several photos, got {len(usable)}")
    table = distances(np.concatenate(probes), np.stack(centres), measure)
    own = owner[:, None] == np.arange(len(usable))[None]
    source = np.array([person.source for person in usable])
    group = np.array([person.group for person in usable])
    impostor = ~own & (source[owner][:, None] == source[None])
    values = np.sort(table[impostor])
    if len(values) * fmr < 10:
        raise BadInput(f"{len(values)} impostor pairs are too few for a false-match rate of {fmr:g}")
    # The matches allowed are the floor(fmr * n) nearest; the threshold lies below the next one.
    allowed = int(np.floor(fmr * len(values)))
    distance = float((values[allowed - 1] + values[allowed]) / 2)
    same = impostor & (group[owner][:, None] == group[None])
    groups = {}
    for name in sorted({g for g in group if g}):
        rows = same & (group[owner] == name)[:, None]
        if rows.sum() >= 1000:
            groups[str(name)] = float((table[rows] <= distance).mean())
    return Threshold(
        encoder=encoder,
        measure=measure,
        distance=distance,
        fmr=float((values <= distance).mean()),
        fnmr=float((table[own] > distance).mean()),
        pairs=len(values),
        people=len(usable),
        groups=groups,
    )


def _rows(data: Path, sources: Sequence[str], people: int, photos: int, seed: int) -> list[dict[str, str]]:
    """Rows of the photo table: so many random photos of so many random people of each source."""
    by_person: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read_table(data):
        by_person[row["source"], row["identity"]].append(row)
    random = np.random.default_rng(seed)
    chosen = []
    for source in sources:
        keys = sorted(key for key, rows in by_person.items() if key[0] == source and len(rows) >= photos)
        for index in random.permutation(len(keys))[:people]:
            rows = by_person[keys[index]]
            chosen += [rows[photo] for photo in random.permutation(len(rows))[:photos]]
    return chosen


def embed_people(data: Path, encoder: str, sources: Sequence[str], people: int, photos: int) -> list[Person]:
    """Descriptors of the largest face in the chosen photos; photos without a face are left out."""
    from idpersona.encoders import FaceEncoder, get_encoder

    eyes = get_encoder(encoder)
    if not isinstance(eyes, FaceEncoder):
        raise BadInput(f"encoder '{encoder}' does not read faces")
    wanted = _rows(data, sources, people, photos, seed=0)
    store = PhotoStore(data, tuple(sources))
    found: dict[tuple[str, str, str], list[np.ndarray]] = defaultdict(list)
    for row in track(wanted, "reading photos", total=len(wanted)):
        image = store.open(row["file"])
        faces = eyes.detect(image)
        if faces:
            key = (row["source"], row["identity"], {"1": "male", "0": "female"}.get(row["Male"], ""))
            found[key].append(eyes.embed(image, faces[0]))
    return [Person(np.stack(rows), source, group) for (source, _, group), rows in found.items()]


def main() -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=data_root(), help="folder with faces.csv.gz and faces_*.tar"
    )
    parser.add_argument("--encoder", default="dlib")
    parser.add_argument(
        "--sources", nargs="+", default=["celeba_wild", "lfw"], choices=SOURCES, help="photo sets"
    )
    parser.add_argument("--people", type=int, default=120, help="people per source")
    parser.add_argument("--photos", type=int, default=6, help="photos per person")
    parser.add_argument("--fmr", type=float, default=1e-3)
    arguments = parser.parse_args()

    def work() -> None:
        people = embed_people(
            arguments.data, arguments.encoder, arguments.sources, arguments.people, arguments.photos
        )
        threshold = calibrate(arguments.encoder, people, fmr=arguments.fmr)
        store_threshold(threshold)
        print(threshold)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
