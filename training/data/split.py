"""Which people are kept out of every training: chosen by identity, never by file, and listed in a file.

LFW and CelebA hold some of the same people under different keys. A training photo that dlib places near a
held-out person is therefore dropped too.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

SPLIT_FILE = Path(__file__).parent / "split.json"
LOOK_ALIKE_DISTANCE = 0.5


@dataclass(frozen=True)
class Split:
    """``validation``: person -> photo files; ``dropped``: training photos that look like one of them."""

    validation: dict[str, tuple[str, ...]]
    dropped: frozenset[str]


@cache
def load_split(path: Path = SPLIT_FILE) -> Split:
    """The committed split."""
    raw = json.loads(path.read_text())
    return Split({k: tuple(v) for k, v in raw["validation"].items()}, frozenset(raw["dropped"]))


def make_split(
    files: np.ndarray,
    sources: np.ndarray,
    identities: np.ndarray,
    descriptors: np.ndarray,
    found: np.ndarray,
    seed: int = 0,
) -> Split:
    """Choose the held-out people and find their look-alikes.

    32 people of ``celeba_wild`` (source 0) with at least 10 photos, 100 of LFW (source 1) with 3 to 12, 120
    of LFW with fewer, and 90 that only ``celeba_aligned`` (source 2) has. All photos of a chosen person are
    held out.
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, list[int]] = {}
    for identity, source, ok in zip(identities, sources, found, strict=True):
        row = counts.setdefault(str(identity), [0, 0, 0])
        row[source] += int(ok)
    groups = (
        (32, [p for p, c in counts.items() if c[0] >= 10]),
        (100, [p for p, c in counts.items() if 3 <= c[1] <= 12]),
        (120, [p for p, c in counts.items() if 1 <= c[1] <= 2]),
        (90, [p for p, c in counts.items() if c[2] and not c[0] and not c[1]]),
    )
    chosen = sorted(str(p) for n, people in groups for p in rng.choice(sorted(people), n, replace=False))
    held_out = np.isin(identities, chosen)
    validation = {p: tuple(sorted(files[identities == p].tolist())) for p in chosen}
    means = np.stack([descriptors[(identities == p) & found].mean(0) for p in chosen])
    near = np.zeros(len(files), dtype=bool)
    for start in range(0, len(files), 4096):
        part = descriptors[start : start + 4096]
        distance = np.sqrt(np.maximum((part**2).sum(1)[:, None] + (means**2).sum(1) - 2 * part @ means.T, 0))
        near[start : start + 4096] = (distance < LOOK_ALIKE_DISTANCE).any(1)
    return Split(validation, frozenset(files[near & ~held_out].tolist()))


def save_split(split: Split, path: Path = SPLIT_FILE) -> None:
    """Write the split as JSON, sorted, so that a diff shows what changed."""
    content = {
        "note": "People kept out of all training, and training photos dropped because dlib finds them within "
        f"{LOOK_ALIKE_DISTANCE} of such a person's mean.",
        "validation": {k: list(v) for k, v in sorted(split.validation.items())},
        "dropped": sorted(split.dropped),
    }
    path.write_text(json.dumps(content, indent=0) + "\n")


def half_of_people(identities: np.ndarray, half: int) -> np.ndarray:
    """Mask bool [N] of one half of the people, by a checksum of their keys: the same on every machine."""
    return np.array([zlib.crc32(str(p).encode()) % 2 == half for p in identities])
