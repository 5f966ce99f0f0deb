"""Keypoint drawing and resize rules against the published preprocessing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.errors import BadInput
from idpersona.keypoints import COLORS, draw_kps, fit_keypoints, resize_img, resize_sizes

GOLDEN = json.loads(
    (Path(__file__).parent / "golden/manifests/instantid_golden_preprocess.json").read_text("utf-8")
)
KPS = GOLDEN["draw_kps_golden"]["kps"]


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def test_drawing_is_pixel_exact():
    golden = GOLDEN["draw_kps_golden"]
    drawn = draw_kps(Image.new("RGB", (512, 512), "white"), np.array(KPS))
    pixels = np.asarray(drawn)
    assert pixels.shape == tuple(golden["shape"])
    assert pixels.sum(axis=(0, 1)).tolist() == golden["sum_per_channel"]
    assert int((pixels.sum(axis=2) > 0).sum()) == golden["nonzero_pixels"]
    for place, colour in golden["pixels_xy_rgb"].items():
        x, y = (int(v) for v in place.split(","))
        assert pixels[y, x].tolist() == colour
    assert hashlib.sha256(drawn.tobytes()).hexdigest() == golden["sha256_rgb_bytes"]


@pytest.mark.parametrize(
    ("table", "max_side"),
    [("resize_img_default(max_side=1280,min_side=1024,base=64)", 1280), ("resize_img(max_side=1024)", 1024)],
)
def test_resize_table(table: str, max_side: int):
    for source, wanted in GOLDEN[table].items():
        first, final = resize_sizes(_size(source), max_side=max_side)
        assert final == _size(wanted), source
        assert max(first) == max_side


def test_resize_goes_through_two_steps_and_pads():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 60, 3), dtype=np.uint8))
    first, final = resize_sizes(noise.size, max_side=256, min_side=128)
    wanted = noise.resize(first, Image.Resampling.BILINEAR).resize(final, Image.Resampling.BILINEAR)
    assert resize_img(noise, 256, 128).tobytes() == wanted.tobytes()
    assert resize_img(noise, size=(64, 192)).size == (64, 192)
    padded = np.asarray(resize_img(noise, 256, 128, pad_to_max_side=True))
    assert padded.shape == (256, 256, 3)
    top = (256 - final[1]) // 2
    assert (padded[:top] == 255).all()
    assert np.array_equal(padded[top : top + final[1]], np.asarray(wanted))


def test_very_long_photo_keeps_a_side():
    assert resize_sizes((5000, 20))[1] == (1280, 64)


def test_radius_zero_and_stick_width_are_parameters():
    small = np.asarray(draw_kps((128, 128), np.array(KPS) / 4, radius=3, stick_width=1))
    large = np.asarray(draw_kps((128, 128), np.array(KPS) / 4))
    assert 0 < (small.sum(2) > 0).sum() < (large.sum(2) > 0).sum()
    one = draw_kps((128, 128), np.array(KPS) / 4, [(9, 9, 9)] * 5)
    assert np.unique(np.asarray(one)).tolist() == [0, 5, 9]
    assert COLORS[0] == (255, 0, 0)


def test_points_outside_of_the_canvas_are_cut_off():
    assert not np.asarray(draw_kps((64, 64), np.full((5, 2), 900.0) + np.eye(5, 2))).any()


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 2)), np.zeros(10), np.full((5, 2), np.nan), np.full((5, 2), 1e30), "no", None]
)
def test_bad_points_are_refused(bad: object):
    with pytest.raises(BadInput):
        draw_kps((64, 64), bad)
    with pytest.raises(BadInput):
        fit_keypoints(bad, (10, 10), (10, 10))


def test_fit_places_the_whole_photo_in_the_canvas():
    fitted = fit_keypoints([[0, 0], [100, 0], [50, 100], [0, 200], [100, 200]], (100, 200), (400, 400))
    assert fitted.dtype == np.float32
    assert fitted.tolist() == [[100, 0], [300, 0], [200, 200], [100, 400], [300, 400]]


def test_fit_by_framing_keeps_shape_and_roll():
    angle = np.deg2rad(15)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    face = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]]) @ turn + [500, 20]
    fitted = fit_keypoints(face, (1000, 800), (128, 128), framing=(0.3, 0.47))
    assert np.allclose(fitted[:2].mean(0), [64, 0.47 * 128], atol=1e-3)
    assert np.isclose(np.linalg.norm(fitted[0] - fitted[1]), 0.3 * 128, atol=1e-3)
    across, before = fitted[1] - fitted[0], face[1] - face[0]
    assert np.isclose(np.arctan2(across[1], across[0]), np.arctan2(before[1], before[0]), atol=1e-5)


def test_freedom_keeps_the_photo_s_place_within_the_trained_range():
    face = np.asarray([[40, 60], [80, 60], [60, 82], [45, 106], [75, 106]], dtype=np.float32)
    free = (0.75, 1.2, 0.12)

    def fit(points: np.ndarray, side: int) -> np.ndarray:
        return fit_keypoints(points, (side, side), (128, 128), framing=(0.3, 0.47), freedom=free)

    # Already in range: as the whole photo has it.
    assert np.allclose(fit(face, 128), fit_keypoints(face, (128, 128), (128, 128)), atol=1e-4)
    # A small face in a corner of a large photo: enlarged and moved to the edge of the range, no further.
    small = fit(face, 640)
    eyes = small[:2].mean(0) / 128
    assert np.isclose(np.linalg.norm(small[1] - small[0]), 0.75 * 0.3 * 128, atol=1e-3)
    assert np.allclose(eyes, [0.5 - 0.12, 0.47 - 0.12], atol=1e-4)


@pytest.mark.parametrize("framing", [(0.0, 0.4), (0.3, 1.0), (float("nan"), 0.4)])
def test_bad_framing_is_refused(framing: tuple[float, float]):
    with pytest.raises(BadInput):
        fit_keypoints(KPS, (512, 512), (128, 128), framing=framing)
