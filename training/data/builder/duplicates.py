"""Near-duplicates: one photo saved twice, made smaller or brighter, turned to grey, mirrored or cropped.

The perceptual hash sees the whole picture and the embedding the face; neither is enough. Portraits of
different people may have nearly one hash, and two photos of one person nearly one embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from idpersona.training.data.builder.nearness import Neighbours

LIMITS = ((6, 0.6), (20, 0.3))
"""Largest number of differing bits (of 64), and largest distance in units of the distance up to which two
photos count as one person; a pair within one of the two is one photo. Measured on 80 news photos and
portraits: saved as JPEG of quality 40, halved, brightened by a quarter, in grey or mirrored they lie within
the first, and all but one of those cropped by 4 % on every side within the second."""


def bits_apart(hashes: np.ndarray, near: Neighbours) -> np.ndarray:
    """Differing bits int64 [m] of each pair, of hashes uint8 [n, 2, 8]; least of as it is and mirrored."""
    plain = hashes[near.first, 0] ^ hashes[near.second, 0]
    mirrored = hashes[near.first, 0] ^ hashes[near.second, 1]
    return np.minimum(
        *(np.unpackbits(bits, axis=1).sum(axis=1, dtype=np.int64) for bits in (plain, mirrored))
    )


def find_duplicates(
    hashes: np.ndarray, near: Neighbours, same_person: float, pixels: Sequence[int], names: Sequence[str]
) -> dict[int, int]:
    """Photo -> the photo it is a near-duplicate of, which stays: the larger, or the first by name.

    Args:
        hashes: uint8 [n, 2, 8], see ``look.perceptual_hashes``.
        near: pairs of photos within ``same_person``.
        same_person: plain distance up to which two photos count as one person.
        pixels, names: of each photo.
    """
    bits = bits_apart(hashes, near)
    alike = np.zeros(len(near), bool)
    for most_bits, most_distance in LIMITS:
        alike |= (bits <= most_bits) & (near.distance <= most_distance * same_person)
    beside: dict[int, list[int]] = {}
    for a, b in zip(near.first[alike].tolist(), near.second[alike].tolist(), strict=True):
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)

    def rank(photo: int) -> tuple[int, str]:
        return -pixels[photo], names[photo]

    gone: dict[int, int] = {}
    # The best photo first: what is removed is near to one that stays, not to another one that is removed.
    for photo in sorted(beside, key=rank):
        staying = [other for other in beside[photo] if other not in gone and rank(other) < rank(photo)]
        if staying:
            gone[photo] = min(staying, key=rank)
    return gone
