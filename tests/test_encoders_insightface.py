"""InsightFace packs through the real package, on tiny real ONNX networks with the published layouts.

The detector has SCRFD's nine outputs and finds squares of 32 px on a 32 px grid: score from the red channel,
size of the box from the green one. The recogniser is a linear map of the 112 px crop.
"""

from __future__ import annotations

import shutil
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idpersona import read_identity
from idpersona.encoders import (
    align,
    encoder_names,
    get_encoder,
    insightface_pack,
    release_encoders,
    similarity,
)
from idpersona.encoders.base import FaceEncoder
from idpersona.encoders.files import sha256_of
from idpersona.encoders.insightface_pack import InsightFaceEncoder
from idpersona.errors import MissingWeights, NoFaceFound, UnknownName
from idpersona.registry import WEIGHTS

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DIM = 512
OFFSETS = np.array([[0.2, 0.25], [0.8, 0.25], [0.5, 0.5], [0.25, 0.75], [0.75, 0.75]], np.float32)
MATRIX = np.random.default_rng(3).normal(size=(48, DIM)).astype(np.float32)


def _constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)


def _shape(name: str, value: list[int]) -> Any:
    return numpy_helper.from_array(np.asarray(value, dtype=np.int64), name)


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> None:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)


def save_detector(path: Path) -> None:
    """SCRFD's layout: score, box and points for the strides 8, 16, 32, two anchors in each cell."""
    nodes, outputs = [], []
    # One value per cell becomes two anchors, of which the second never fires.
    constants = [
        _shape("to_scores", [-1, 2]),
        _shape("to_rows", [-1, 1]),
        _constant("gain", [[40.0]]),
        _constant("bias", [[-36.0]]),
        _constant("anchors", [[1.0, 0.0]]),
        _constant("half", [[0.5]]),
        _constant("one_and_half", [[1.5]]),
        _constant("sides", [[1, 1, 2, 2]]),
        _constant("points", OFFSETS.reshape(1, 10)),
        _constant("twice", [[1.0, 1.0]]),
        _shape("first", [0]),
        _shape("second", [1]),
        _shape("third", [2]),
        _shape("channel", [1]),
    ]
    found: dict[str, list[str]] = {"score": [], "bbox": [], "kps": []}
    for stride in (8, 16, 32):
        s = str(stride)
        live = 1.0 if stride == 32 else 0.0
        constants.append(_constant("live" + s, [[live]]))

        def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(op, inputs, [output], **attributes))
            return output

        pooled = add("AveragePool", ["x"], "pool" + s, kernel_shape=[stride] * 2, strides=[stride] * 2)
        red = add("Slice", [pooled, "first", "second", "channel"], "red" + s)
        green = add("Slice", [pooled, "second", "third", "channel"], "green" + s)
        rows = add("Reshape", [red, "to_rows"], "red_rows" + s)
        sharp = add("Add", [add("Mul", [rows, "gain"], "gained" + s), "bias"], "biased" + s)
        score = add("Mul", [add("Sigmoid", [sharp], "sigmoid" + s), "live" + s], "lived" + s)
        pairs = add("Mul", [score, "anchors"], "pairs" + s)
        found["score"].append(add("Reshape", [pairs, "to_rows"], "score_" + s))
        size = add("Mul", [add("Reshape", [green, "to_rows"], "green_rows" + s), "half"], "halved" + s)
        size = add("Add", [size, "one_and_half"], "size" + s)
        size = add("Reshape", [add("Mul", [size, "twice"], "doubled" + s), "to_rows"], "sizes" + s)
        found["bbox"].append(add("Mul", [size, "sides"], "bbox_" + s))
        zero = add("Sub", [size, size], "zero" + s)
        found["kps"].append(add("Add", [zero, "points"], "kps_" + s))
    for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        outputs += [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n" + n, width]) for n in found[kind]
        ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "height", "width"])
    _save(path, nodes, [image], outputs, constants)


def save_recogniser(path: Path, side: int = 112, dim: int = DIM) -> None:
    """ArcFace's layout: [n, 3, 112, 112] -> [n, 512]."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[side // 4] * 2, strides=[side // 4] * 2),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, side, side])
    vector = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", dim])
    _save(path, nodes, [image], [vector], [_constant("w", MATRIX[:, :dim])])


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "antelopev2"
    folder.mkdir()
    save_detector(folder / "scrfd_10g_bnkps.onnx")
    save_recogniser(folder / "glintr100.onnx")
    save_recogniser(folder / "genderage.onnx", side=96, dim=3)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def encoder(pack: Path, no_network: None) -> InsightFaceEncoder:
    encoder = get_encoder("antelopev2", folder=pack)
    assert isinstance(encoder, InsightFaceEncoder)
    return encoder


def photo_of(*squares: tuple[int, int, int], size: tuple[int, int] = (640, 640)) -> Image.Image:
    """Black photo with squares (column, row, green) on the 32 px grid."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for column, row, green in squares:
        block = pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        block[..., 0] = 255
        block[..., 1] = green
        block[..., 2] = np.linspace(0, 255, 32).astype(np.uint8)
    return Image.fromarray(pixels)


def test_faces_are_found_largest_first(encoder: InsightFaceEncoder):
    assert isinstance(encoder, FaceEncoder)
    found = encoder.detect(photo_of((4, 4, 0), (12, 10, 255)))
    assert found.sizes_tried == (640,)
    assert len(found) == 2
    assert [round(face.width) for face in found] == [192, 96]
    assert np.allclose(found[0].keypoints, OFFSETS * 32 + [12 * 32, 10 * 32], atol=0.01)
    assert np.allclose(found[1].box, [3 * 32, 3 * 32, 6 * 32, 6 * 32], atol=0.5)
    assert 0.5 < found[0].score <= 1


def test_places_are_those_of_the_photo(encoder: InsightFaceEncoder):
    wide = photo_of((4, 4, 0)).resize((1280, 1280), Image.Resampling.NEAREST)
    found = encoder.detect(wide)
    assert np.allclose(found[0].keypoints, (OFFSETS * 32 + 128) * 2, atol=0.5)


def test_sizes_tried_are_named(encoder: InsightFaceEncoder, pack: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(pack.parent))
    with pytest.raises(NoFaceFound) as caught:
        read_identity(photo_of(), "antelopev2")
    assert caught.value.sizes == (640, 448, 320, 1280)


def test_the_embedding_is_raw_and_of_the_aligned_crop(encoder: InsightFaceEncoder):
    photo = photo_of((12, 10, 255))
    face = encoder.detect(photo)[0]
    vector = encoder.embed(photo, face)
    crop = np.asarray(align(photo, face.keypoints), dtype=np.float32)
    pooled = (
        ((crop - 127.5) / 127.5).reshape(4, 28, 4, 28, 3).mean(axis=(1, 3)).transpose(2, 0, 1).reshape(-1)
    )
    assert vector.dtype == np.float32
    assert np.abs(vector - pooled @ MATRIX).max() < 0.05 * np.abs(vector).max()
    assert np.linalg.norm(vector) > 5
    assert not encoder.normalised
    many = encoder.embed_many([photo, photo], [face, face])
    assert np.array_equal(many, np.stack([vector, vector]))
    assert encoder.embed_many([], []).shape == (0, DIM)


def test_the_embedding_is_that_of_the_package(encoder: InsightFaceEncoder):
    from insightface.app.common import Face as PackFace

    photo = photo_of((12, 10, 255), (3, 4, 100)).rotate(4, resample=Image.Resampling.BILINEAR)
    face = encoder.detect(photo_of((12, 10, 255)))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = encoder._recogniser.get(
            np.ascontiguousarray(np.asarray(photo)[..., ::-1]), PackFace(kps=face.keypoints)
        )
    assert np.abs(theirs - encoder.embed(photo, face)).max() < 1e-3 * np.abs(theirs).max()


def test_what_is_said_of_the_pack(encoder: InsightFaceEncoder, pack: Path):
    import hashlib

    assert encoder.provider == "CPUExecutionProvider" or encoder.provider.endswith("ExecutionProvider")
    assert encoder.provider == encoder._recogniser.session.get_providers()[0]
    assert encoder.weights_sha256 == hashlib.sha256((pack / "glintr100.onnx").read_bytes()).hexdigest()
    assert encoder.dim == DIM
    assert encoder.name == "antelopev2"
    assert "non-commercial" in encoder.licence
    assert "not normalised" in encoder.preprocessing


def test_a_provider_that_is_not_there_is_reported(
    pack: Path, caplog: pytest.LogCaptureFixture, no_network: None
):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    fallen = InsightFaceEncoder("antelopev2", folder=pack, providers=wanted)
    assert fallen.provider == "CPUExecutionProvider"
    assert "was to run on CUDAExecutionProvider but runs on CPUExecutionProvider" in caplog.text


@pytest.mark.parametrize("layout", ["flat", "nested", "itself"])
def test_where_packs_are_looked_for(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, no_network: None
):
    place = {
        "flat": tmp_path / "buffalo_l",
        "nested": tmp_path / "buffalo_l/buffalo_l",
        "itself": tmp_path,
    }[layout]
    place.mkdir(parents=True, exist_ok=True)
    for file in pack.glob("*.onnx"):
        shutil.copy(file, place)
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    release_encoders("buffalo_l")
    encoder = get_encoder("buffalo_l")
    assert isinstance(encoder, InsightFaceEncoder)
    assert encoder.folder == place
    release_encoders("buffalo_l")


def test_a_missing_pack_names_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None):
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    release_encoders("buffalo_l")
    with pytest.raises(MissingWeights) as caught:
        get_encoder("buffalo_l")
    assert str(tmp_path / "buffalo_l") in str(caught.value)
    assert "idpersona models pull buffalo_l" in str(caught.value)
    (tmp_path / "buffalo_l.zip").write_bytes(b"PK")
    with pytest.raises(MissingWeights, match=r"buffalo_l\.zip is still packed"):
        get_encoder("buffalo_l")


def test_broken_packs(pack: Path, tmp_path: Path, no_network: None):
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"no network at all")
    with pytest.raises(MissingWeights, match="cannot be loaded"):
        get_encoder("antelopev2", folder=tmp_path)
    only_recogniser = tmp_path / "r"
    only_recogniser.mkdir()
    save_recogniser(only_recogniser / "a.onnx")
    save_recogniser(only_recogniser / "b.onnx")
    with pytest.raises(MissingWeights, match="no detection network"):
        get_encoder("antelopev2", folder=only_recogniser)
    only_detector = tmp_path / "d"
    only_detector.mkdir()
    save_detector(only_detector / "a.onnx")
    save_detector(only_detector / "b.onnx")
    with pytest.raises(MissingWeights, match="no recognition network"):
        get_encoder("antelopev2", folder=only_detector)


def test_reading_and_comparing(pack: Path, monkeypatch: pytest.MonkeyPatch, no_network: None):
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(pack.parent))
    release_encoders("antelopev2")
    me = read_identity(photo_of((12, 10, 255)), "antelopev2")
    feature = me.feature("antelopev2", needed_by="instantid")
    assert feature.values.shape == (1, DIM)
    assert not feature.normalised
    assert similarity(me, me)["measure"] == "cosine"
    assert similarity(me, me)["similarity"] == pytest.approx(1)
    release_encoders("antelopev2")


def test_names():
    assert {"antelopev2", "buffalo_l", "dlib"} <= set(encoder_names("face"))
    with pytest.raises(UnknownName, match="did you mean antelopev2"):
        get_encoder("antelope")


def test_another_pack_under_this_name_is_refused(
    pack: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
):
    """Its vectors have the same length: InstantID would take them, and draw somebody else."""
    published = replace(
        WEIGHTS["buffalo_l"], files={"w600k_r50.onnx": (sha256_of(pack / "glintr100.onnx"), 1)}
    )
    monkeypatch.setattr(insightface_pack, "WEIGHTS", {**WEIGHTS, "buffalo_l": published})
    with pytest.raises(MissingWeights, match="holds the pack 'buffalo_l', not 'antelopev2'"):
        InsightFaceEncoder("antelopev2", pack)
    assert InsightFaceEncoder("buffalo_l", pack).name == "buffalo_l"
