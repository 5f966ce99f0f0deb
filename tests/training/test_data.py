"""Framing, captions, and who is kept out of training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from idpersona.training.data.captions import caption
from idpersona.training.data.framing import EYE_DISTANCE, EYE_LINE, frame
from idpersona.training.data.split import SPLIT_FILE, half_of_people, load_split, make_split

POINTS = np.array([[70, 90], [110, 88], [91, 112], [75, 135], [107, 133]], np.float32)


def marked(size=200):
    image = Image.new("RGB", (size, size), "gray")
    for (x, y), colour in zip(POINTS, ("red", "lime", "blue", "yellow", "magenta"), strict=True):
        image.paste(colour, (int(x) - 3, int(y) - 3, int(x) + 4, int(y) + 4))
    return image


@pytest.mark.parametrize(
    "framing",
    [
        {},
        {"shift": (0.1, -0.08)},
        {"scale": 0.8},
        {"roll_degrees": 20},
        {"flip": True},
        {"flip": True, "roll_degrees": -15},
    ],
    ids=str,
)
def test_keypoints_follow_the_pixels(framing):
    picture, points = frame(marked(), POINTS, **framing)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    if framing.get("flip"):  # left and right change places in the points
        colours = [colours[i] for i in (1, 0, 2, 4, 3)]
    for (x, y), wanted in zip(points, colours, strict=True):
        seen = picture.getpixel((round(float(x)), round(float(y))))
        assert np.abs(np.array(seen) - wanted).max() < 60, (seen, wanted)


def test_the_face_stands_where_the_model_expects_it():
    _, points = frame(marked(), POINTS)
    eyes = points[:2].mean(0)
    assert abs(eyes[0] / 128 - 0.5) < 0.03 and abs(eyes[1] / 128 - EYE_LINE) < 0.03
    assert abs(np.linalg.norm(points[1] - points[0]) / 128 - EYE_DISTANCE) < 0.03


def test_captions_say_only_what_is_known():
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = caption({"Male": True, "Eyeglasses": False, "Smiling": False}, rng)
        assert "woman" not in text and "lady" not in text and "female" not in text
        assert "with eyeglasses" not in text and "smiling man" not in text
        assert "hat" not in text.split() and "hair" not in text


def test_captions_name_an_attribute_most_of_the_time_and_vary():
    rng = np.random.default_rng(0)
    texts = [caption({"Male": False, "Eyeglasses": True, "Blond_Hair": True}, rng) for _ in range(400)]
    assert 0.55 < np.mean(["glasses" in t or "spectacles" in t for t in texts]) < 0.9
    assert 0.5 < np.mean(["blond" in t or "fair hair" in t for t in texts]) < 0.9
    assert len(set(texts)) > 100


def test_low_quality_is_said():
    rng = np.random.default_rng(0)
    for _ in range(20):
        text = caption({}, rng, low_quality=True)
        assert "blurry" in text or "low" in text


def test_the_committed_split_keeps_enough_people_out():
    split = load_split()
    several = [p for p, files in split.validation.items() if len(files) > 1]
    wild = [p for p, files in split.validation.items() if any("wild" in f for f in files)]
    assert len(split.validation) >= 300 and len(several) >= 100 and len(wild) >= 30
    held_out = {f for files in split.validation.values() for f in files}
    assert not held_out & split.dropped
    assert json.loads(SPLIT_FILE.read_text())["dropped"] == sorted(split.dropped)


def test_look_alikes_of_held_out_people_are_dropped():
    rng = np.random.default_rng(0)
    people = [f"w{i}" for i in range(40)] + [f"l{i}" for i in range(300)] + [f"a{i}" for i in range(100)]
    files, sources, identities, centres = [], [], [], []
    for number, person in enumerate(people):
        count, source = ((12, 0), (4, 1), (2, 2))["wla".index(person[0])]
        if person[0] == "l" and number % 2:
            count = 2
        centre = rng.normal(size=128)
        for k in range(count):
            files.append(f"{person}/{k}")
            sources.append(source)
            identities.append(person)
            centres.append(centre + 0.01 * rng.normal(size=128))
    descriptors = np.array(centres)
    found = np.ones(len(files), bool)
    arrays = (np.array(files), np.array(sources), np.array(identities), descriptors, found)
    split = make_split(*arrays)
    assert len(split.validation) == 342 and not split.dropped
    # The same person under another name, among the training people:
    held_out = next(iter(split.validation))
    stranger = next(i for i, p in enumerate(identities) if p not in split.validation)
    descriptors[stranger] = descriptors[identities.index(held_out)] + 0.001
    again = make_split(*arrays)
    assert again.validation == split.validation and again.dropped == {files[stranger]}


def test_halves_of_people_are_disjoint_and_complete():
    people = np.array([f"p{i}" for i in range(200)])
    first, second = half_of_people(people, 0), half_of_people(people, 1)
    assert (first ^ second).all() and 60 < first.sum() < 140


def test_large_photos_are_framed_without_aliasing() -> None:
    """Grain of a large photo is averaged, not sampled: the picture is that of the photo shrunk first."""
    from skimage.data import astronaut

    face, points = (
        Image.fromarray(astronaut()),
        np.array([[195, 112], [240, 112], [217, 140], [200, 160], [236, 160]]),
    )
    plain, _ = frame(face, points)
    large = np.asarray(face.resize((512 * 8, 512 * 8), Image.Resampling.BICUBIC)).astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 15, large.shape)
    grainy = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
    framed, moved = frame(grainy, (points + 0.5) * 8 - 0.5)
    error = np.asarray(framed).astype(float) - np.asarray(plain)
    assert np.sqrt((error**2).mean()) < 4
    # The points go along: as in the small photo.
    assert np.allclose(moved, frame(face, points)[1], atol=0.05)
