"""The definitions behind every number about identity, pose and prompts. numpy only.

* own: cosine of one picture with the normalised mean of the person's *other* photos (the reference, from
  which the identity was read, is not among them). A picture without a found face counts 0.
* to the reference: cosine with that photo itself; copying its light and make-up pays here, not in own.
* others: the same picture against the prototypes of all other people, averaged.
* rank-1: the share of random galleries (the person and 31 others) in which the person's own prototype is
  nearest.
* balanced hit rate: mean of P(judge says yes | asked for) and P(judge says no | asked against), on the same
  seeds.
* pose error: mean distance of the five keypoints found in the picture from those asked for, in percent of the
  width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from idpersona.errors import BadInput


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """Rows of float [..., dim] scaled to length 1; rows of zeros stay zero (no face: cosine 0 with
    everybody).
    """
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)


def prototype(embeddings: np.ndarray) -> np.ndarray:
    """Normalised mean float [dim] of the normalised rows of ``embeddings`` [photos, dim].

    Raises:
        BadInput: no row, or rows whose mean vanishes.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise BadInput(f"a prototype needs at least one embedding, got shape {list(embeddings.shape)}")
    mean = normalise(embeddings).mean(axis=0)
    if not np.linalg.norm(mean) > 0:
        raise BadInput("a prototype of embeddings that cancel out says nothing")
    return normalise(mean)


def cosines(pictures: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Cosine of every picture with every prototype: [pictures, dim], [people, dim] -> [pictures, people]."""
    return normalise(pictures) @ normalise(prototypes).T


def own_and_others(table: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a cosine table [pictures, people] into own [pictures] and mean over all others [pictures].

    ``owners`` int [pictures] is the column of each picture's person.
    """
    people = table.shape[1]
    if people < 2:
        raise BadInput("own against others needs at least two people")
    own = table[np.arange(len(table)), owners]
    return own, (table.sum(axis=1) - own) / (people - 1)


def rank_one(
    table: np.ndarray,
    owners: np.ndarray,
    found: np.ndarray,
    *,
    gallery: int = 32,
    galleries: int = 100,
    seed: int = 0,
) -> np.ndarray:
    """Rank-1 rate of each picture float [pictures], over ``galleries`` random galleries of ``gallery``
    people.

    Every gallery holds the picture's own person and ``gallery - 1`` other people drawn without repetition; a
    picture without a found face never hits, and a tie is a miss. ``found`` bool [pictures].

    Raises:
        BadInput: fewer people than a gallery holds.
    """
    people = table.shape[1]
    if not 2 <= gallery <= people:
        raise BadInput(f"a gallery of {gallery} cannot be drawn from {people} people")
    rng = np.random.default_rng(seed)
    hits = np.zeros(len(table))
    for _ in range(galleries):
        for row, owner in enumerate(owners):
            drawn = rng.choice(people - 1, size=gallery - 1, replace=False)
            drawn = drawn + (drawn >= owner)  # steps over the owner's own column
            hits[row] += bool(found[row]) and table[row, owner] > table[row, drawn].max()
    return hits / galleries


def person_means(values: np.ndarray, owners: np.ndarray, people: int) -> np.ndarray:
    """Mean of ``values`` [pictures] per person [people], so that people weigh the same however many pictures.

    Raises:
        BadInput: a person without a picture.
    """
    counts = np.bincount(owners, minlength=people)
    if (counts == 0).any():
        raise BadInput(f"{int((counts == 0).sum())} of {people} people have no picture")
    return np.bincount(owners, weights=values, minlength=people) / counts


def balanced_hits(yes_when_for: np.ndarray, yes_when_against: np.ndarray) -> np.ndarray:
    """Balanced hit value per seed, float [seeds] in {0, 0.5, 1}: half for each of the two right answers."""
    if yes_when_for.shape != yes_when_against.shape:
        raise BadInput("asked-for and asked-against pictures must come from the same seeds")
    return (yes_when_for.astype(np.float64) + (~yes_when_against.astype(bool)).astype(np.float64)) / 2


def balanced_accuracy(said: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the true-positive and true-negative rates, for bool arrays [photos].

    Raises:
        BadInput: one of the two classes does not occur.
    """
    said, truth = said.astype(bool), truth.astype(bool)
    if truth.all() or not truth.any():
        raise BadInput("a balanced rate needs photos with and without the attribute")
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def keypoint_error(found: np.ndarray, asked: np.ndarray, width: int) -> float:
    """Mean distance of five points [5, 2] (pixels) in percent of the picture's ``width`` (pixels)."""
    return float(np.linalg.norm(found - asked, axis=-1).mean() / width * 100)


def shuffled_errors(
    found: Sequence[np.ndarray | None], asked: Sequence[np.ndarray], width: int
) -> list[float | None]:
    """For each picture, its mean error against the keypoints asked for in all *other* pictures (None: not
    found).

    All pairings are averaged instead of one random permutation: the same expectation without its scatter.
    """
    errors: list[float | None] = []
    for i, points in enumerate(found):
        others = [other for j, other in enumerate(asked) if j != i]
        if points is None or not others:
            errors.append(None)
        else:
            errors.append(float(np.mean([keypoint_error(points, other, width) for other in others])))
    return errors
