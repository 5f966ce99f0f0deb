"""InstantID's poses: what may be given, and where the face is then drawn."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.pose import PoseDrawer, is_drawing
from idpersona.errors import BadInput
from idpersona.identity import Feature, Identity
from idpersona.keypoints import draw_kps, fit_keypoints

KPS = np.array([[22, 24], [42, 23], [32, 34], [24, 44], [41, 45]], dtype=np.float32)


def person(values: Any, keypoints: Any = KPS) -> Identity:
    rows = np.asarray(values, dtype=np.float32).reshape(-1, np.shape(values)[-1])
    feature = Feature(encoder="antelopev2", values=rows)
    return Identity("face", {"antelopev2": feature}, keypoints=keypoints, image_size=(64, 64))


CONFIG = InstantIDConfig(kps_radius=3, kps_stick_width=1)


def _drawn(points: Any, canvas: tuple[int, int]) -> torch.Tensor:
    picture = np.array(draw_kps(canvas, points, radius=3, stick_width=1), dtype=np.float32) / 255
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def _unread(_photo: Any) -> Identity:
    raise AssertionError("no photo was given")


def test_poses_that_can_be_given() -> None:
    me, canvas = person(np.ones(512)), (128, 96)
    own = fit_keypoints(KPS, (64, 64), canvas)
    drawing = draw_kps(canvas, KPS, radius=3, stick_width=1)
    assert is_drawing(drawing)
    poses: list[tuple[Any, Any]] = [
        (None, own),
        (me, own),
        (KPS, KPS),
        (KPS.tolist(), KPS),
        (KPS[None], KPS),
        ([KPS], KPS),
        (drawing, KPS),
        (np.array(drawing), KPS),
        (_drawn(KPS, canvas), KPS),
    ]
    for pose, points in poses:
        got = PoseDrawer(pose, [me], CONFIG, _unread)(canvas)
        assert torch.equal(got, _drawn(points, canvas)), pose


def test_five_people_in_the_poses_of_five() -> None:
    people = [person(np.full(512, float(n))) for n in range(5)]
    got = PoseDrawer(people, people, CONFIG, _unread)((128, 96))
    assert got.shape == (5, 3, 96, 128)


def test_a_face_before_a_black_wall_is_no_drawing() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert not is_drawing(Image.fromarray(pixels))
    pixels[20:44, 24:40] = (210, 160, 130)
    assert not is_drawing(Image.fromarray(pixels))
    noisy = np.random.default_rng(0).integers(0, 9, (64, 64, 3), dtype=np.uint8)
    assert not is_drawing(Image.fromarray(np.maximum(pixels, noisy)))
    drawing = draw_kps((128, 96), KPS, radius=3, stick_width=1)
    assert is_drawing(drawing.resize((512, 384), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(("kind", "quality"), [("JPEG", 50), ("JPEG", 75), ("JPEG", 95), ("WEBP", 80)])
@pytest.mark.parametrize(("scale", "radius", "width"), [(1, 3, 1), (8, 10, 4)])
def test_a_compressed_drawing_is_still_one(
    kind: str, quality: int, scale: int, radius: int, width: int
) -> None:
    drawing = draw_kps((128 * scale, 96 * scale), KPS * scale, radius=radius, stick_width=width)
    file = io.BytesIO()
    drawing.save(file, kind, quality=quality)
    assert is_drawing(Image.open(file))


def test_a_photo_as_a_pose_is_read() -> None:
    photo = Image.new("RGB", (64, 64), (90, 80, 70))
    asked = []

    def read(given: Any) -> Identity:
        asked.append(given)
        return person(np.ones(512))

    for given in (photo, "pose.jpg", np.array(photo)):
        got = PoseDrawer(given, [person(np.ones(512))], CONFIG, read)((128, 128))
        assert torch.equal(got, _drawn(fit_keypoints(KPS, (64, 64), (128, 128)), (128, 128)))
    assert len(asked) == 3 and asked[1] == "pose.jpg"


def test_the_framing_of_the_base_places_the_face() -> None:
    config = InstantIDConfig(kps_radius=3, kps_stick_width=1, framing=(0.3, 0.47))
    got = PoseDrawer(None, [person(np.ones(512))], config, _unread)((128, 128))
    points = fit_keypoints(KPS, (64, 64), (128, 128), framing=(0.3, 0.47))
    assert torch.equal(got, _drawn(points, (128, 128)))
    assert abs(np.linalg.norm(points[1] - points[0]) - 0.3 * 128) < 0.1


def test_poses_that_are_refused() -> None:
    me = person(np.ones(512))
    faceless = person(np.ones(512), keypoints=None)
    for pose, people in (
        (None, [faceless]),
        ([KPS], [me, me]),
        (np.stack([KPS, KPS, KPS]), [me, me]),
        (np.ones((4, 2)), [me]),
        (torch.ones(2, 2), [me]),
        (torch.full((3, 8, 8), 255.0), [me]),
        (torch.full((3, 8, 8), torch.nan), [me]),
    ):
        with pytest.raises(BadInput):
            PoseDrawer(pose, people, CONFIG, _unread)


def test_the_size_of_a_picture_in_a_photos_pose() -> None:
    """The published rule for SDXL; half of it for the SD1.5 layout; the base's own size with one framing."""
    for config, expected in (
        (InstantIDConfig(), (1280, 960)),
        (InstantIDConfig(resize_max_side=640, resize_min_side=512), (640, 448)),
        (InstantIDConfig(framing=(0.3, 0.47)), None),
    ):
        adapter = InstantID.__new__(InstantID)
        adapter.config = config
        assert adapter.canvas((800, 600)) == expected
