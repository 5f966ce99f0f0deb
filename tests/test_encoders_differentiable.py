"""The descriptor as a differentiable function of a picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from idpersona.encoders import get_encoder
from idpersona.encoders.alignment import align
from idpersona.encoders.base import Face
from idpersona.encoders.differentiable import DLIB_TEMPLATE, FaceDescriptor, aligned, mean_descriptor
from idpersona.encoders.dlib_face import RECOGNISER
from idpersona.encoders.dlib_torch import SIDE, DlibResNet
from idpersona.encoders.style import StyleModel
from idpersona.errors import BadInput, CheckpointError, MissingWeights
from idpersona.images import open_photo
from idpersona.registry import locate

DLIB_FILE = locate("dlib") / RECOGNISER


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return open_photo("sample:astronaut")


@pytest.fixture(scope="module")
def points(photo: Image.Image) -> np.ndarray:
    encoder: Any = get_encoder("dlib")
    return encoder.detect(photo)[0].keypoints


def tensor(*photos: Image.Image) -> torch.Tensor:
    pixels = np.stack([np.asarray(photo) for photo in photos])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_crops_are_those_of_the_usual_alignment(photo: Image.Image, points: np.ndarray) -> None:
    turned, half = photo.rotate(20), photo.reduce(2)
    angle = np.deg2rad(-20)
    centre = (np.array(photo.size) - 1) / 2
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cases = (
        (photo, points),
        (turned, (points - centre) @ rotation.T + centre),
        (half, points / 2 - 0.25),
        (photo, points + np.array([-200.0, 0.0])),  # partly beyond the edge
    )
    for picture, found in cases:
        crop = aligned(tensor(picture), [found], 64)
        usual = tensor(align(picture, found, 64, repeat_edges=True))
        assert float((crop - usual).abs().mean()) < 0.01, "of a range of 2"


def test_gradients_reach_the_picture(photo: Image.Image, points: np.ndarray) -> None:
    reader = FaceDescriptor.load()
    pictures = tensor(photo, photo).requires_grad_()
    descriptors = reader(pictures, torch.tensor(np.stack([points, points])))
    assert descriptors.shape == (2, 128) and torch.allclose(descriptors[0], descriptors[1], atol=1e-5)
    descriptors[0].square().sum().backward()
    assert pictures.grad is not None
    assert bool(pictures.grad[0].any()) and not bool(pictures.grad[1].any())
    x, y = points.mean(axis=0).astype(int)
    assert float(pictures.grad[0, :, y, x].abs().sum()) > 0
    assert not any(p.requires_grad for p in reader.parameters())


def test_the_same_person_is_near_and_another_is_not(photo: Image.Image, points: np.ndarray) -> None:
    reader = FaceDescriptor.load()
    encoder: Any = get_encoder("dlib")
    other = open_photo("sample:person-1")
    keypoints = encoder.detect(other)[0].keypoints
    darker = photo.point(lambda value: int(0.8 * value))
    with torch.no_grad():
        rows = [reader(tensor(p), [k])[0] for p, k in ((photo, points), (darker, points), (other, keypoints))]
    same, different = (torch.cosine_similarity(rows[0], row, dim=0) for row in rows[1:])
    assert float(same) > 0.9 and float(different) < 0.3


def test_the_network_gives_dlibs_own_numbers(photo: Image.Image) -> None:
    chips = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    chips = np.concatenate([chips, np.asarray(photo.resize((SIDE, SIDE)))[None]])
    encoder: Any = get_encoder("dlib")
    with torch.no_grad():
        own = DlibResNet.load(DLIB_FILE)(tensor(*map(Image.fromarray, chips))).numpy()
    assert np.abs(own - np.array(encoder._network.compute_face_descriptor(list(chips)))).max() < 1e-5


@pytest.mark.parametrize("size", [512, 170])
def test_five_points_give_nearly_what_68_landmarks_give(photo: Image.Image, size: int) -> None:
    encoder: Any = get_encoder("dlib")
    face, scale = encoder.detect(photo)[0], size / photo.width
    smaller = photo.resize((size, size), Image.Resampling.BOX)
    points = (face.keypoints + 0.5) * scale - 0.5
    by_dlib = encoder.embed(smaller, Face(tuple(scale * side for side in face.box), points, face.score))
    with torch.no_grad():
        found = FaceDescriptor.load()(tensor(smaller), [points])[0]
    wanted = torch.from_numpy(by_dlib) - mean_descriptor()
    assert float(torch.cosine_similarity(found, wanted, dim=0)) > 0.96


def test_large_faces_are_read_as_small_ones(photo: Image.Image, points: np.ndarray) -> None:
    """Every pixel counts: a pattern of single pixels looks like the grey that it is from afar."""
    large = photo.point(lambda value: 64 + value // 2).resize((1600, 1600))
    fine = (
        np.asarray(large).astype(np.int16)
        + 60 * (np.indices((1600, 1600)).sum(axis=0) % 2 * 2 - 1)[..., None]
    )
    noisy = Image.fromarray(fine.clip(0, 255).astype(np.uint8))
    places = (points + 0.5) * (1600 / photo.width) - 0.5
    plain, patterned = (aligned(tensor(p), [places], SIDE, DLIB_TEMPLATE) for p in (large, noisy))
    assert float((plain - patterned).abs().mean()) < 0.02, "of a range of 2"


def test_damaged_or_missing_weights_of_dlib_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="pip install"):
        FaceDescriptor.load(tmp_path)
    whole = DLIB_FILE.read_bytes()
    for damaged in (b"", b"no network", whole[:1_000_000], whole.replace(b"affine_", b"other_\x00", 1)):
        (tmp_path / RECOGNISER).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not dlib's network"):
            FaceDescriptor.load(tmp_path)


def test_keypoints_that_do_not_fit_are_refused(photo: Image.Image, points: np.ndarray) -> None:
    with pytest.raises(BadInput, match="one for each picture"):
        aligned(tensor(photo), [points, points], 64)
    with pytest.raises(BadInput, match="one spot"):
        aligned(tensor(photo), [np.zeros((5, 2))], 64)


def test_weights_with_a_hole_are_refused(tmp_path: Path) -> None:
    # diffusers fills what is missing with random numbers and goes on.
    folder = shutil.copytree(locate("mini-wplus"), tmp_path / "copy")
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    lost, *_ = state
    save_file({key: value for key, value in state.items() if key != lost}, file)
    with pytest.raises(CheckpointError, match=f"missing: {lost}"):
        _ = StyleModel("mini-wplus", folder, locate("mini") / "vae").dim
