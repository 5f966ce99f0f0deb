"""Near pairs, near-duplicates, groups and pairs: against scipy, known copies, and where they would chain."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from idpersona.encoders import get_encoder
from idpersona.encoders.base import FaceEncoder
from idpersona.errors import BadInput
from idpersona.images import open_photo
from idpersona.training.data.builder import nearness
from idpersona.training.data.builder.duplicates import find_duplicates
from idpersona.training.data.builder.grouping import DOUBT, group
from idpersona.training.data.builder.look import perceptual_hashes
from idpersona.training.data.builder.nearness import Space, encoder_space, neighbours
from idpersona.training.data.builder.pairs import make_pairs


def people(count: int, each: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 [count * each, 16] in random order, and whose they are."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(count), each))
    centres = rng.normal(0, 0.3, (count, 16))
    points = centres[owner] + rng.normal(0, spread, (len(owner), 16))
    return points.astype(np.float32), owner


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def test_near_pairs_are_all_pairs_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = people(40, 5, 0.1)
    whole = neighbours(points, 0.6)
    monkeypatch.setattr(nearness, "_TILE", 17)
    tiles = neighbours(points, 0.6)
    table = np.linalg.norm(points[:, None].astype(float) - points[None], axis=-1)
    first, second = np.nonzero(np.triu(table <= 0.6, 1))
    for found in (whole, tiles):
        assert np.array_equal(found.first, first) and np.array_equal(found.second, second)
        assert np.allclose(found.distance, table[first, second])
    assert np.array_equal(whole.distance, tiles.distance)
    assert len(neighbours(points[:0], 0.6)) == 0
    keep = np.arange(len(points)) % 3 > 0
    among, alone = whole.among(keep), neighbours(points[keep], 0.6)
    assert np.array_equal(among.first, alone.first) and np.array_equal(among.second, alone.second)


@pytest.mark.parametrize("spread", [0.06, 0.12, 0.2])
def test_groups_are_those_of_average_linkage(spread: float) -> None:
    points, _ = people(60, 6, spread)
    limit = 0.7
    ours = group(points, neighbours(points, limit), limit, doubt=0.0)
    tree = linkage(pdist(points.astype(float)) ** 2, "average")
    assert partition(ours) == partition(fcluster(tree, limit**2, "distance"))


def test_groups_do_not_depend_on_the_order_of_photos() -> None:
    points, owner = people(50, 8, 0.06)
    order = np.random.default_rng(1).permutation(len(points))
    one = group(points, neighbours(points, 0.7), 0.7)
    other = group(points[order], neighbours(points[order], 0.7), 0.7)
    assert {frozenset(order[list(part)].tolist()) for part in partition(other)} == partition(one)
    assert partition(one) == partition(owner)
    # Numbered in the order in which people first appear.
    assert np.array_equal(one[np.sort(np.unique(one, return_index=True)[1])], np.arange(50))


def test_people_on_a_long_way_from_one_to_another_are_not_chained() -> None:
    points = np.zeros((400, 16), np.float32)
    points[:, 0] = 0.3 * np.arange(400)  # each is near to the next
    labels = group(points, neighbours(points, 0.5), 0.5)
    assert max(np.bincount(labels)) <= 2


def test_single_photos_must_be_nearer_than_groups() -> None:
    edge = 0.5 * np.sqrt(1 - DOUBT)
    for apart, groups in ((edge - 0.01, 1), (edge + 0.01, 2)):
        points = np.zeros((2, 16), np.float32)
        points[1, 0] = apart
        assert len(set(group(points, neighbours(points, 0.5), 0.5).tolist())) == groups


def test_thresholds_of_encoders() -> None:
    space = encoder_space("dlib", None)
    assert space.calibrated and space.measure == "l2" and space.limit == space.same_person
    cosine = encoder_space("antelopev2", 0.6)
    points = cosine.points(np.array([[3.0, 0.0], [0.0, 5.0]], np.float32))
    assert np.allclose(points, np.eye(2))
    assert np.isclose(cosine.distance(np.linalg.norm(points[0] - points[1])), 1.0)
    assert np.isclose(cosine.distance(np.array(cosine.limit)), 0.6)
    with pytest.raises(BadInput, match="--same-person"):
        encoder_space("antelopev2", None)


COPIES = {
    "jpeg": lambda image: image.resize((image.width // 2, image.height // 2)).resize(image.size),
    "smaller": lambda image: image.resize((300, 300)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "cropped": lambda image: image.crop((12, 12, 500, 500)),
}


def test_copies_are_found_and_other_photos_of_the_person_are_not() -> None:
    encoder = get_encoder("dlib")
    assert isinstance(encoder, FaceEncoder)
    photo = open_photo("sample:astronaut")
    # Another photo of her, as far as that can be made: another background and place in the picture.
    other = Image.new("RGB", (512, 512), (20, 90, 40))
    other.paste(photo.crop((150, 40, 300, 230)).resize((300, 380)), (200, 130))
    pictures = {"photo": photo, **{name: copy(photo) for name, copy in COPIES.items()}, "other": other}
    rows = [encoder.embed(picture, encoder.detect(picture)[0]) for picture in pictures.values()]
    hashes = np.stack([perceptual_hashes(picture) for picture in pictures.values()])
    near = neighbours(np.stack(rows), 0.52)
    names, pixels = list(pictures), [p.width * p.height for p in pictures.values()]
    gone = find_duplicates(hashes, near, 0.52, pixels, names)
    # The largest stays, of equal ones the first by name.
    assert {names[a]: names[b] for a, b in gone.items()} == {
        name: "brighter" for name in names if name not in ("brighter", "other")
    }


def test_a_removed_photo_is_near_to_one_that_stays() -> None:
    # b is near to a and to c, a and c are not: whatever is largest, every removed photo names a kept one.
    points = np.array([[0.0], [0.25], [0.5]], np.float32)
    hashes = np.zeros((3, 2, 8), np.uint8)
    near = neighbours(points, 0.52)
    for pixels, gone in (
        ((3, 2, 1), {1: 0}),
        ((1, 3, 2), {0: 1, 2: 1}),
        ((2, 1, 3), {1: 2}),
        ((1, 1, 1), {1: 0}),
    ):
        assert find_duplicates(hashes, near, 0.52, pixels, "abc") == gone


def test_pairs_name_others_of_the_same_person() -> None:
    names = ["a1", "b1", "a2", "a3", "c1", "a4", "b2"]
    points = np.arange(7, dtype=np.float32)[:, None]
    space = Space("l2", 0.5, calibrated=True)
    rows = list(make_pairs(names, [name[0] for name in names], points, space, 2))
    assert all(row["reference"][0] == row["target"][0] == row["identity"] for row in rows)
    assert all(row["reference"] != row["target"] for row in rows)
    counts = {name: sum(row["target"] == name for row in rows) for name in names}
    assert counts == {"a1": 2, "a2": 2, "a3": 2, "a4": 2, "b1": 1, "b2": 1, "c1": 0}
    assert rows == list(make_pairs(names, [name[0] for name in names], points, space, 2))
    (pair,) = [row for row in rows if row["target"] == "b1"]
    assert pair == {"reference": "b2", "target": "b1", "identity": "b", "distance": 5.0}
