"""Reading faces with the default encoder, on the public-domain portrait that scikit-image carries."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from idpersona import Identity, read_identity
from idpersona.encoders import Faces, get_encoder, list_boxes, release_encoders, similarity
from idpersona.encoders.base import FaceEncoder
from idpersona.encoders.dlib_face import DlibFaceEncoder, five_points
from idpersona.errors import (
    BadInput,
    FaceChoiceError,
    IdentityFileError,
    MissingWeights,
    NoFaceFound,
    PhotoError,
)
from idpersona.images import open_photo, photo_sha256

ASTRONAUT = "sample:astronaut"
EYES = [[203, 101], [247, 104]]


@pytest.fixture(scope="module")
def dlib() -> DlibFaceEncoder:
    encoder = get_encoder("dlib")
    assert isinstance(encoder, DlibFaceEncoder)
    return encoder


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return open_photo(ASTRONAUT)


@pytest.fixture(scope="module")
def me() -> Identity:
    return read_identity(ASTRONAUT)


@pytest.fixture(scope="module")
def two(portrait: Image.Image) -> Image.Image:
    """A small and a large portrait side by side; the large one on the right, mirrored."""
    canvas = Image.new("RGB", (1000, 640), "grey")
    canvas.paste(portrait.crop((100, 0, 400, 300)), (10, 330))
    large = ImageOps.mirror(portrait.crop((100, 0, 400, 300))).resize((600, 600), Image.Resampling.BICUBIC)
    canvas.paste(large, (390, 20))
    return canvas


def test_what_is_read(me: Identity):
    feature = me.feature("dlib")
    assert feature.values.shape == (1, 128)
    assert not feature.normalised
    assert 1.2 < np.linalg.norm(feature.values) < 1.8
    assert "non-commercial" in feature.licence
    assert len(feature.weights_sha256) == 64
    assert me.kind == "face"
    assert me.image_size == (512, 512)
    assert me.sources == (photo_sha256(ASTRONAUT),)
    assert me.warnings == ()
    assert not me.consent


def test_keypoints_are_in_the_order_of_instantid(me: Identity):
    kps = me.keypoints
    assert kps is not None
    assert np.abs(kps[:2] - EYES).max() < 4
    assert kps[0, 0] < kps[2, 0] < kps[1, 0]
    assert kps[:2, 1].max() < kps[2, 1] < kps[3:, 1].min()
    assert kps[3, 0] < kps[4, 0]


def test_five_points_of_68():
    points = np.arange(136, dtype=np.float64).reshape(68, 2)
    assert five_points(points)[:, 0].tolist() == [77, 89, 60, 96, 108]


def test_encoder_keeps_its_promises(dlib: DlibFaceEncoder, portrait: Image.Image):
    assert isinstance(dlib, FaceEncoder)
    assert get_encoder("dlib") is dlib
    assert dlib.provider in {"cpu", "cuda"}
    found = dlib.detect(portrait)
    assert isinstance(found, Faces)
    assert len(found) == 1
    assert found.sizes_tried == (640,)
    many = dlib.embed_many([portrait, portrait], [found[0]] * 2)
    assert many.shape == (2, 128)
    assert many.dtype == np.float32
    assert np.abs(many - dlib.embed(portrait, found[0])).max() < 1e-5
    assert dlib.embed_many([], []).shape == (0, 128)
    assert dlib.landmarks(portrait, found[0]).shape == (68, 2)


def test_embedding_is_that_of_plain_dlib(dlib: DlibFaceEncoder, portrait: Image.Image):
    import dlib as package

    face = dlib.detect(portrait)[0]
    pixels = np.asarray(portrait)
    shape = dlib._predictor(pixels, package.rectangle(*(round(v) for v in face.box)))
    plain = np.array(dlib._network.compute_face_descriptor(pixels, shape))
    assert np.abs(plain - dlib.embed(portrait, face)).max() < 1e-5


def test_the_same_person_in_worse_photos(me: Identity, portrait: Image.Image, tmp_path: Path):
    buffer = io.BytesIO()
    portrait.save(buffer, "JPEG", quality=40)
    for changed in (
        Image.open(buffer),
        ImageOps.mirror(portrait),
        portrait.resize((410, 410)),
        portrait.rotate(10),
        ImageOps.grayscale(portrait),
    ):
        result = similarity(me, read_identity(changed))
        assert result["same_person"], result
        assert result["similarity"] > 0.55
    assert similarity(me, me) == {
        "encoder": "dlib",
        "measure": "1 - L2 distance",
        "similarity": 1.0,
        "threshold": 0.4,
        "same_person": True,
    }


@pytest.fixture(scope="module")
def stranger() -> Identity:
    folder = pytest.importorskip("insightface").__path__[0]
    return read_identity(Path(folder) / "data/images/Tom_Hanks_54745.png")


def test_another_person(me: Identity, stranger: Identity):
    result = similarity(me, stranger, "dlib")
    assert not result["same_person"]
    assert result["similarity"] < 0.35
    assert any("75 px" in warning for warning in stranger.warnings)


def test_photos_of_different_people_are_said(portrait: Image.Image, stranger: Identity):
    folder = pytest.importorskip("insightface").__path__[0]
    photos = [portrait, ImageOps.mirror(portrait), Path(folder) / "data/images/Tom_Hanks_54745.png"]
    mixed = read_identity(photos)
    assert [w[:8] for w in mixed.warnings if "someone else" in w] == ["photo 3 "]
    assert not any("someone else" in w for w in read_identity(photos[:2]).warnings)


def test_two_faces_the_largest_is_taken_and_said(two: Image.Image, dlib: DlibFaceEncoder):
    found = dlib.detect(two)
    assert len(found) == 2
    assert found[0].area > 3 * found[1].area
    largest = read_identity(two)
    assert largest.keypoints is not None
    assert largest.keypoints[:, 0].min() > 390
    assert any("2 faces" in w and "face 1: " in w for w in largest.warnings)
    small = read_identity(two, face=1)
    assert small.keypoints is not None
    assert small.keypoints[:, 0].max() < 310
    assert not any("2 faces" in w for w in small.warnings)
    with pytest.raises(FaceChoiceError) as caught:
        read_identity(two, face=2)
    assert list_boxes(found) in str(caught.value)


def test_a_close_crop_is_found(dlib: DlibFaceEncoder, portrait: Image.Image, me: Identity):
    x0, y0, x1, y1 = dlib.detect(portrait)[0].box
    crop = portrait.crop((int(x0) + 8, int(y0) + 8, int(x1) - 8, int(y1) + 4))
    found = read_identity(crop)
    assert similarity(me, found)["same_person"]
    assert me.keypoints is not None
    assert found.keypoints is not None
    assert np.abs(found.keypoints + np.array([int(x0) + 8, int(y0) + 8]) - me.keypoints).max() < 6


def test_a_small_face_in_a_large_photo_is_found(portrait: Image.Image):
    canvas = Image.new("RGB", (1600, 1200), (90, 110, 90))
    canvas.paste(portrait.crop((100, 0, 400, 300)), (900, 500))
    found = read_identity(canvas)
    assert found.keypoints is not None
    assert np.abs(found.keypoints[:2] - np.array(EYES) - [800, 500]).max() < 5


def test_a_photo_of_a_strange_shape(dlib: DlibFaceEncoder):
    for size in ((4000, 32), (32, 4000)):
        with pytest.raises(NoFaceFound):
            read_identity(Image.new("RGB", size, "grey"))


@pytest.mark.parametrize("kind", ["black", "noise", "ramp"])
def test_no_face(kind: str):
    pixels = np.zeros((300, 400, 3), np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    if kind == "ramp":
        pixels[:] = np.linspace(0, 255, 400)[None, :, None]
    with pytest.raises(NoFaceFound) as caught:
        read_identity(pixels)
    assert caught.value.sizes[:2] == (640, 1280)
    assert "640, 1280, 320 px" in str(caught.value)


def test_quality_is_said(portrait: Image.Image):
    blurred = read_identity(portrait.filter(ImageFilter.GaussianBlur(2.5)))
    assert any("blurred" in w for w in blurred.warnings)
    small = read_identity(portrait.resize((256, 256)))
    assert any("px wide" in w for w in small.warnings)
    see_through = portrait.convert("RGBA")
    see_through.putpixel((0, 0), (0, 0, 0, 0))
    assert any("transparent" in w for w in read_identity(see_through).warnings)


def test_several_photos(portrait: Image.Image, me: Identity, tmp_path: Path):
    other = ImageOps.mirror(portrait)
    rows = [me.feature("dlib").values[0], read_identity(other).feature("dlib").values[0]]
    mean = read_identity([ASTRONAUT, other], consent=True)
    assert np.allclose(mean.feature("dlib").values, np.mean(rows, axis=0)[None], atol=1e-5)
    assert mean.consent
    assert len(mean.sources) == 2
    assert np.array_equal(mean.keypoints, me.keypoints)  # type: ignore[arg-type]
    both = read_identity([ASTRONAUT, other], merge="concat")
    assert both.feature("dlib").values.shape == (2, 128)
    weighted = read_identity([ASTRONAUT, other], merge="weighted", weights=[1, 0])
    assert np.allclose(weighted.feature("dlib").values[0], rows[0], atol=1e-5)
    assert Identity.load(both.save(tmp_path / "both.safetensors")) == both


def test_a_batch_with_bad_photos(tmp_path: Path, me: Identity):
    broken = tmp_path / "secret-name.jpg"
    broken.write_bytes(b"no picture")
    black = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(PhotoError, match="secret-name"):
        read_identity([broken, ASTRONAUT])
    with pytest.raises(NoFaceFound):
        read_identity([ASTRONAUT, black])
    read = read_identity([broken, ASTRONAUT, black], on_error="skip")
    assert np.array_equal(read.feature("dlib").values, me.feature("dlib").values)
    assert len(read.warnings) == 2
    assert read.warnings[0].startswith("photo 1: left out: the photo is not an image")
    assert read.warnings[1].startswith("photo 3: left out: no face found")
    assert "secret-name" not in str(read.warnings)
    weighted = read_identity([broken, ASTRONAUT], on_error="skip", merge="weighted", weights=[5, 1])
    assert np.allclose(weighted.feature("dlib").values, me.feature("dlib").values)
    with pytest.raises(PhotoError):
        read_identity([broken, black], on_error="skip")


def test_contradicting_arguments(portrait: Image.Image, me: Identity):
    with pytest.raises(BadInput, match="at least one photo"):
        read_identity([])
    with pytest.raises(BadInput, match="at least one encoder"):
        read_identity(portrait, [])
    with pytest.raises(BadInput, match="did you mean dlib"):
        read_identity(portrait, "dlip")
    with pytest.raises(BadInput, match="does not read subject 'object'"):
        read_identity(portrait, subject="object")
    with pytest.raises(BadInput, match="subject"):
        read_identity(portrait, subject="animal")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="on_error"):
        read_identity(portrait, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="one weight"):
        read_identity([portrait], weights=[1, 2], merge="weighted")
    for bad in (-1, True, 1.0, "0"):
        with pytest.raises(FaceChoiceError):
            read_identity(portrait, face=bad)  # type: ignore[arg-type]


def test_comparing_what_cannot_be_compared(me: Identity):
    import dataclasses

    feature = me.feature("dlib")
    other = Identity("face", {"clip": dataclasses.replace(feature, encoder="clip")})
    with pytest.raises(IdentityFileError, match="nothing to compare"):
        similarity(me, other)
    with pytest.raises(IdentityFileError, match="--encoder clip"):
        similarity(me, other, "clip")
    retrained = Identity("face", {"dlib": dataclasses.replace(feature, weights_sha256="ab" * 32)})
    with pytest.raises(IdentityFileError, match="different weights"):
        similarity(me, retrained)


def test_missing_and_damaged_weights(tmp_path: Path):
    with pytest.raises(MissingWeights, match=str(tmp_path)):
        get_encoder("dlib", folder=tmp_path)
    for name in ("dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_68_face_landmarks.dat"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(MissingWeights, match="damaged"):
        get_encoder("dlib", folder=tmp_path)
    release_encoders("nothing")
