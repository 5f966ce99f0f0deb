"""Alignment, quality measures, the size ladder and the order of faces."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from idpersona.encoders import ARCFACE_TEMPLATE, Face, Faces, align, measure_quality, similarity_transform
from idpersona.encoders.base import compare_vectors, overlap
from idpersona.encoders.ladder import Rung, look
from idpersona.encoders.quality import head_turn
from idpersona.errors import BadInput

POINTS = np.array([[200, 100], [250, 104], [226, 130], [204, 150], [246, 152]], dtype=np.float32)


def _similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0, -3.1])
@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_a_similarity_is_found_exactly(angle: float, scale: float):
    wanted = _similarity(angle, scale, (30, -7))
    moved = POINTS @ wanted[:, :2].T + wanted[:, 2]
    assert np.allclose(similarity_transform(POINTS, moved), wanted, atol=1e-3)


def test_never_a_reflection_and_least_squares():
    mirrored = POINTS * [-1, 1]
    found = similarity_transform(POINTS, mirrored)
    assert np.linalg.det(found[:, :2]) > 0
    noisy = POINTS + np.random.default_rng(0).normal(size=(5, 2))
    best = similarity_transform(POINTS, noisy)

    def loss(matrix: np.ndarray) -> float:
        return float(((POINTS @ matrix[:, :2].T + matrix[:, 2] - noisy) ** 2).sum())

    for change in (_similarity(0.01, 1, (0, 0)), _similarity(0, 1.01, (0, 0)), _similarity(0, 1, (0.3, 0))):
        turned = np.concatenate(
            [change[:, :2] @ best[:, :2], (change[:, :2] @ best[:, 2] + change[:, 2])[:, None]], axis=1
        )
        assert loss(turned) > loss(best)


def test_agrees_with_the_implementation_in_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    theirs = transform.SimilarityTransform.from_estimate(POINTS, ARCFACE_TEMPLATE)
    assert np.allclose(similarity_transform(POINTS, ARCFACE_TEMPLATE), theirs.params[:2], atol=1e-4)


def test_points_on_one_spot_are_refused():
    with pytest.raises(BadInput, match="one spot"):
        similarity_transform(np.ones((5, 2)), POINTS)
    with pytest.raises(BadInput):
        align(Image.new("RGB", (64, 64)), np.ones((4, 2)))
    with pytest.raises(BadInput):
        align(Image.new("RGB", (64, 64)), POINTS, size=4)


@pytest.mark.parametrize("size", [112, 224, 128, 256])
def test_aligned_faces_have_their_points_at_the_template(size: int):
    photo = np.zeros((300, 400, 3), np.uint8)
    spread = similarity_transform(ARCFACE_TEMPLATE, POINTS)
    template_points = ARCFACE_TEMPLATE @ spread[:, :2].T + spread[:, 2]
    for x, y in template_points:
        photo[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3] = 255
    crop = np.asarray(align(Image.fromarray(photo), template_points, size))[..., 0]
    assert crop.shape == (size, size)
    unit, margin = (size / 128, 8.0) if size % 112 else (size / 112, 0.0)
    for x, y in (ARCFACE_TEMPLATE + np.array([margin, 0])) * unit:
        assert crop[round(y), round(x)] > 128
    assert crop[5, size // 2] == 0


def test_largest_is_by_area():
    # A precedence slip, w * y2 - y1, would take the lower face.
    low = Face((0, 900, 20, 920), POINTS, 1.0)
    large = Face((0, 0, 30, 30), POINTS, 0.2)
    wide = Face((0, 0, 100, 4), POINTS, 0.9)
    assert list(Faces([low, wide, large], [640, 1280, 640])) == [large, low, wide]
    assert Faces([], [640, 1280, 640]).sizes_tried == (640, 1280)


def test_overlap():
    a = Face((0, 0, 10, 10), POINTS, 1)
    assert overlap(a, a) == 1
    assert overlap(a, Face((5, 0, 15, 10), POINTS, 1)) == pytest.approx(1 / 3)
    assert overlap(a, Face((10, 0, 20, 10), POINTS, 1)) == 0


def test_measures():
    a, b = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    assert compare_vectors(a, 5 * a, "cosine") == pytest.approx(1)
    assert compare_vectors(a, b, "cosine") == pytest.approx(24 / 25)
    assert compare_vectors(a, b, "1 - L2 distance") == pytest.approx(1 - 2**0.5)
    with pytest.raises(BadInput, match="zeros"):
        compare_vectors(a, 0 * a, "cosine")


@pytest.mark.parametrize("rung", [Rung(640), Rung(160), Rung(320, 0.5)])
def test_views_lead_back_to_the_photo(rung: Rung):
    photo = np.zeros((150, 200, 3), np.uint8)
    photo[60:70, 120:130] = 255
    view = look(Image.fromarray(photo), rung)
    assert view is not None
    assert max(view.pixels.shape) == rung.long_side
    ys, xs = np.nonzero(view.pixels[..., 0] > 128)
    middle = view.to_photo(np.array([xs.mean() + 0.5, ys.mean() + 0.5]))
    assert np.allclose(middle, [125, 65], atol=1)


def test_photos_are_not_enlarged_without_end():
    assert look(Image.new("RGB", (100, 60)), Rung(401)) is None
    assert look(Image.new("RGB", (100, 60)), Rung(400)) is not None


HEAD = np.array([[-1, -1, 0], [1, -1, 0], [0, 0.15, 1.2], [-0.75, 1.2, 0.1], [0.75, 1.2, 0.1]])


@pytest.mark.parametrize("yaw", [-50, -20, 0, 20, 50])
@pytest.mark.parametrize("roll", [-25, 0, 40])
def test_head_turn_of_a_turned_model_head(yaw: int, roll: int):
    a, b = np.deg2rad(yaw), np.deg2rad(roll)
    around_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    flat = (HEAD @ around_y.T)[:, :2]
    flat = flat @ np.array([[np.cos(b), np.sin(b)], [-np.sin(b), np.cos(b)]])
    found_yaw, found_roll = head_turn(flat * 40 + 100)
    assert found_yaw == pytest.approx(yaw, abs=10)
    assert found_roll == pytest.approx(roll, abs=6)


def test_quality_warnings():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    good = Face((180, 70, 270, 170), POINTS, 1.0)
    assert measure_quality(noise, good).warnings() == ()
    blurred = measure_quality(noise.filter(ImageFilter.GaussianBlur(8)), good).warnings()
    assert len(blurred) == 1
    assert "blurred" in blurred[0]
    small = measure_quality(noise, Face((200, 100, 245, 150), POINTS, 1.0)).warnings()
    assert len(small) == 1
    assert "45 px" in small[0]
    turned = POINTS.copy()
    turned[2, 0] += 30
    assert "turned away" in measure_quality(noise, Face(good.box, turned, 1.0)).warnings()[0]
    cut = measure_quality(noise, Face((-90, 70, 90, 250), POINTS, 1.0))
    assert cut.outside == pytest.approx(0.5)
    assert "outside" in cut.warnings()[0]
    tilted = (POINTS - 150) @ np.array([[0.0, 1], [-1, 0]]) + 150
    assert any("tilted" in w for w in measure_quality(noise, Face(good.box, tilted, 1.0)).warnings())
