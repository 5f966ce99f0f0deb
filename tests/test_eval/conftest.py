"""A small private data set of one public-domain face, and tiny real models, for the evaluations."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

PEOPLE, PHOTOS = 5, 4
ATTRIBUTES = ("Smiling", "Male", "Young")


def varied_face(person: int, photo: int) -> Image.Image:
    """The astronaut's face, 160x160, framed and lit a little differently each time."""
    from skimage.data import astronaut

    left, top = 100 + 4 * photo, 12 + 3 * person
    crop = Image.fromarray(astronaut()).crop((left, top, left + 250, top + 250)).resize((160, 160))
    return ImageEnhance.Brightness(crop.rotate(2 * photo - 3)).enhance(0.9 + 0.06 * person)


@pytest.fixture(scope="session")
def faces_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faces_lfw.tar``, ``faces.csv.gz``, ``split.json`` and ``tiny.protocol.json``."""
    folder = tmp_path_factory.mktemp("faces")
    files: dict[str, list[str]] = {}
    with tarfile.open(folder / "faces_lfw.tar", "w") as tar:
        for person in range(PEOPLE):
            for photo in range(PHOTOS):
                name = f"lfw_160/P{person}/P{person}_{photo:04d}.png"
                data = io.BytesIO()
                varied_face(person, photo).save(data, format="PNG")
                member = tarfile.TarInfo(name)
                member.size = data.tell()
                data.seek(0)
                tar.addfile(member, data)
                files.setdefault(f"lfw:P{person}", []).append(name)
    with gzip.open(folder / "faces.csv.gz", "wt", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file", "source", "identity", *ATTRIBUTES])
        for index, (identity, names) in enumerate(files.items()):
            for name in names:
                writer.writerow([name, "lfw", identity, index % 2, 0, ""])
    (folder / "split.json").write_text(json.dumps({"validation": files, "dropped": []}))
    (folder / "tiny.protocol.json").write_text(json.dumps(protocol_fields(folder)))
    return folder


def protocol_fields(folder: Path) -> dict[str, Any]:
    """A protocol for 64x64 pictures of the tiny base."""
    return {
        "name": "tiny",
        "split": str(folder / "split.json"),
        "people": 3,
        "max_others": 2,
        "steps": 2,
        "guidance": 2.0,
        "size": 64,
        "scales": [0.0, 1.0],
        "gallery": 32,
        "galleries": 10,
        "bootstrap_samples": 100,
        "prompts": {
            "seeds": 3,
            "attributes": {
                "Smiling": ["a photo of a smiling person", "a photo of a person"],
                "Young": ["a photo of a young person", "a photo of an old person"],
            },
            "with_identity": ["Smiling"],
            "identity_seeds": 2,
            "real_photos": 6,
        },
        "pose": {"photos": 3, "roll": 8.0, "shift": 0.05, "smallest": 0.9, "largest": 1.05},
        "reconstruction_photos": 4,
    }


@pytest.fixture(scope="session")
def protocol(faces_folder: Path) -> Any:
    from idpersona.eval.protocol import Protocol

    return Protocol.load(faces_folder / "tiny.protocol.json")


@pytest.fixture(scope="session")
def store(faces_folder: Path) -> Any:
    from idpersona.training.data.archives import PhotoStore

    return PhotoStore(faces_folder)


@pytest.fixture(scope="session")
def finder() -> Any:
    from idpersona.eval.finders import get_finder

    return get_finder("dlib")


@pytest.fixture(scope="session")
def face_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the runs, so that dlib reads each photo once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pipe() -> Any:
    """A tiny stock Stable Diffusion pipeline drawing 64x64 pictures."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from idpersona.testing import tiny_components

    return StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)


@pytest.fixture(scope="session")
def adapter(pipe: Any) -> Any:
    """A tiny InstantID that reads dlib's descriptor."""
    import torch
    from diffusers.models.controlnets.controlnet import ControlNetModel

    from idpersona.adapters.instantid.adapter import InstantID
    from idpersona.adapters.instantid.config import InstantIDConfig
    from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector

    config = InstantIDConfig(
        encoder="dlib",
        embedding_dim=128,
        dim=32,
        depth=1,
        dim_head=16,
        heads=2,
        num_tokens=4,
        output_dim=32,
        ff_mult=2,
        kps_radius=3,
        kps_stick_width=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32))
        for outlet in net.controlnet_down_blocks:
            torch.nn.init.normal_(next(outlet.parameters()), std=0.05)
        projector = InstantIDProjector(**config.projector_sizes())
        cross = IdentityCrossAttention.from_unet(pipe.unet)
        for weight in cross.parameters():
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return InstantID(projector.eval(), cross.eval(), net.eval(), config)


@pytest.fixture(scope="session")
def judge() -> Any:
    """A small untrained face network: real, seeded, and enough to tell pictures apart."""
    import torch

    from idpersona.encoders.small_cnn import SmallFaceCNN
    from idpersona.eval.judges import Judge

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = SmallFaceCNN(out_dim=16, widths=(8, 8, 8, 8), task="identity").eval()
    return Judge("tiny-judge", module, 64, (0, 64), 127.5, "0" * 64, "none", ships=False)


@pytest.fixture(scope="session")
def classifier() -> Any:
    import torch

    from idpersona.encoders.attributes import AttributeClassifier
    from idpersona.encoders.small_cnn import SmallFaceCNN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = SmallFaceCNN(out_dim=3, widths=(8, 8, 8, 8), labels=ATTRIBUTES).eval()
    return AttributeClassifier("tiny-attributes", module, ATTRIBUTES, "0" * 64)


@pytest.fixture
def studio(pipe: Any, adapter: Any, protocol: Any, tmp_path: Path) -> Any:
    from idpersona.eval.generation import Studio

    return Studio(
        pipe,
        adapter,
        steps=protocol.steps,
        guidance=protocol.guidance,
        size=protocol.size,
        batch=3,
        cache=tmp_path / "pictures",
        quiet=True,
    )


@pytest.fixture
def noise_picture() -> Image.Image:
    """A picture without a face."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
