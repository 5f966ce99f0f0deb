"""The registry of encoders, several encoders for one identity, and encoders of whole objects."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from idpersona import read_identity
from idpersona.encoders import (
    Face,
    Faces,
    encoder_names,
    encoder_subject,
    get_encoder,
    register_encoder,
    release_encoders,
    similarity,
)
from idpersona.encoders.base import FaceEncoder, Measure, ObjectEncoder
from idpersona.encoders.catalogue import _ENTRIES
from idpersona.errors import BadInput, NoFaceFound, PersonRefused

POINTS = np.array([[20, 20], [40, 20], [30, 30], [22, 40], [38, 40]], dtype=np.float32)


class _Common:
    dim = 8
    normalised = True
    weights_sha256 = "ef" * 32
    licence = "public domain"
    preprocessing = "RGB histogram"
    measure: Measure = "cosine"
    threshold = 0.9
    sure_score = 0.5
    provider = "cpu"


def _histogram(image: Image.Image) -> np.ndarray:
    counts = np.histogram(np.asarray(image), bins=8, range=(0, 256))[0].astype(np.float32)
    return counts / np.linalg.norm(counts)


class Colours(_Common):
    """Grey values of the whole photo: a small honest encoder of objects."""

    name = "colours"

    def __init__(self, bins: int = 8):
        self.bins = bins

    def embed_image(self, image: Image.Image) -> np.ndarray:
        return _histogram(image)[None]


class Blobs(_Common):
    """A "face" is the bright part of the photo in a box of its own; used beside another face encoder."""

    name = "blobs"
    boxes: tuple[tuple[float, float, float, float], ...] = ((10.0, 10.0, 50.0, 50.0),)

    def detect(self, image: Image.Image) -> Faces:
        return Faces((Face(box, POINTS + np.array(box[:2]) - 10, 0.9) for box in self.boxes), (64,))

    def embed(self, image: Image.Image, face: Face) -> np.ndarray:
        return _histogram(image.crop([round(v) for v in face.box]))  # type: ignore[arg-type]

    def embed_many(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        return np.stack([self.embed(i, f) for i, f in zip(images, faces, strict=True)])


class ManyBlobs(Blobs):
    name = "many-blobs"
    boxes = ((60.0, 60.0, 120.0, 120.0), (12.0, 12.0, 52.0, 52.0), (70.0, 0.0, 90.0, 20.0))


class ElsewhereBlobs(Blobs):
    name = "elsewhere"
    boxes = ((200.0, 200.0, 240.0, 240.0),)


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    before = dict(_ENTRIES)
    register_encoder("colours", Colours, subject="object")
    for blobs in (Blobs, ManyBlobs, ElsewhereBlobs):
        register_encoder(blobs.name, blobs)
    yield
    _ENTRIES.clear()
    _ENTRIES.update(before)
    release_encoders()


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))


def test_the_protocols_tell_faces_from_objects():
    assert isinstance(Colours(), ObjectEncoder)
    assert not isinstance(Colours(), FaceEncoder)
    assert isinstance(Blobs(), FaceEncoder)
    assert not isinstance(Blobs(), ObjectEncoder)


def test_names_and_subjects():
    assert "colours" in encoder_names()
    assert "colours" in encoder_names("object")
    assert "colours" not in encoder_names("face")
    assert encoder_subject("dlib") == "face"


def test_encoders_are_loaded_once_for_each_set_of_options():
    one = get_encoder("colours")
    assert get_encoder("colours") is one
    four = get_encoder("colours", bins=4)
    assert isinstance(four, Colours)
    assert four is not one
    assert four.bins == 4
    release_encoders("colours")
    assert get_encoder("colours") is not one


def test_taking_a_name_is_said_with_both_origins():
    with pytest.warns(UserWarning, match=r"'colours' of .*Colours is replaced by .*Blobs"):
        register_encoder("colours", Blobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_encoder("colours", Blobs)
    with pytest.raises(BadInput):
        register_encoder("x", Blobs, subject="animal")  # type: ignore[arg-type]


def test_an_object_is_read_whole(photo: Image.Image):
    cup = read_identity([photo, photo.rotate(90)], "colours", subject="object")
    assert cup.kind == "object"
    assert cup.keypoints is None
    assert cup.image_size == (256, 256)
    assert cup.feature("colours").normalised
    assert similarity(cup, cup)["same_person"]
    with pytest.raises(BadInput, match="face=N is for"):
        read_identity(photo, "colours", subject="object", face=0)
    with pytest.raises(BadInput, match="does not read subject 'face'"):
        read_identity(photo, ["blobs", "colours"])


def test_several_encoders_read_the_same_face(photo: Image.Image):
    both = read_identity(photo, ["blobs", "many-blobs", "blobs"])
    assert list(both.features) == ["blobs", "many-blobs"]
    # The largest face of the second encoder is another one than the chosen face of the first.
    wanted = ManyBlobs().embed(photo, Face((12, 12, 52, 52), POINTS, 0.9))
    assert np.allclose(both.feature("many-blobs").values[0], wanted)
    assert np.allclose(both.keypoints, POINTS)  # type: ignore[arg-type]
    largest = read_identity(photo, ["many-blobs", "blobs"], face=1)
    assert np.allclose(largest.feature("many-blobs").values[0], wanted)


def test_a_second_encoder_that_sees_another_face_is_an_error(photo: Image.Image):
    with pytest.raises(NoFaceFound, match="by encoder 'elsewhere'"):
        read_identity(photo, ["blobs", "elsewhere"])


def test_encoders_are_given_by_name_or_as_they_are(photo: Image.Image):
    itself = read_identity(photo, Colours(), subject="object")
    assert itself.features == read_identity(photo, "colours", subject="object").features
    both = read_identity(photo, ["blobs", ManyBlobs()])
    assert both.features == read_identity(photo, ["blobs", "many-blobs"]).features
    with pytest.raises(BadInput, match="encoder 'colours' does not read subject 'face'"):
        read_identity(photo, Colours())


def test_a_check_sees_every_reading_and_leaves_nothing_behind(photo: Image.Image):
    seen = []
    photos = [photo, photo.rotate(90)]
    read = read_identity(
        photos, "many-blobs", also=["blobs"], face=1, check=lambda who, where: seen.append((who, where))
    )
    assert [sorted(who.features) for who, _ in seen] == [["blobs", "many-blobs"]] * 3
    assert [len(who.sources) for who, _ in seen] == [1, 1, 2]
    assert seen[2][1] == "the mean of the 2 photos"
    # The face that was chosen, not the one that the other encoder would have taken.
    wanted = ManyBlobs().embed(photo, Face((12, 12, 52, 52), POINTS, 0.9))
    assert np.allclose(seen[0][0].feature("many-blobs").values[0], wanted)
    plain = read_identity(photos, "many-blobs", face=1)
    assert list(read.features) == ["many-blobs"]
    assert np.array_equal(read.feature("many-blobs").values, plain.feature("many-blobs").values)


def test_what_a_check_refuses_is_not_skipped(photo: Image.Image):
    def refuse(*_: object) -> None:
        raise PersonRefused("no")

    with pytest.raises(PersonRefused):
        read_identity([photo, photo], "blobs", check=refuse, on_error="skip")
    with pytest.raises(NoFaceFound, match="by encoder 'elsewhere'"):
        read_identity(photo, "blobs", also=["elsewhere"], check=lambda *_: None)


def test_any_number_of_doubts_fits_into_an_identity(photo: Image.Image):
    """A large batch of doubtful photos is read; how many sentences were left out is said."""
    encoder, animation = Colours(), Image.new("RGBA", (40, 40), (9, 9, 9, 90))
    register_encoder("colours", lambda: encoder, subject="object")
    read = read_identity([photo, *[animation] * 1100], "colours", subject="object")
    assert len(read.warnings) == 1000
    assert read.warnings[-1] == "and 101 more doubts"
    assert len(read_identity([animation] * 3, "colours", subject="object").warnings) == 3


def test_merging_keeps_within_what_a_file_may_hold(photo: Image.Image):
    encoder, animation = Colours(), Image.new("RGBA", (40, 40), (9, 9, 9, 90))
    register_encoder("colours", lambda: encoder, subject="object")
    many = read_identity([animation] * 600, "colours", subject="object")
    others = [replace(many, warnings=tuple(f"b: {w}" for w in many.warnings))]
    merged = many.merge([many, *others])
    assert len(merged.warnings) == 1000
    assert merged.warnings[-1] == "and 201 more doubts"
