"""A user's InstantID script, as published, on tiny weights: only the import of the pipeline differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from PIL import Image

from idpersona import read_identity
from idpersona.adapters.instantid.convert import Published, write_published
from idpersona.adapters.instantid.modules import InstantIDProjector
from idpersona.testing import tiny_components

SCRIPT = """
import cv2
import numpy as np
import torch
from PIL import Image

from diffusers.models import ControlNetModel
from idpersona.pipelines import StableDiffusionXLInstantIDPipeline, draw_kps

controlnet_path = f"{checkpoints}/ControlNetModel"
face_adapter = f"{checkpoints}/ip-adapter.bin"

controlnet = ControlNetModel.from_pretrained(controlnet_path, torch_dtype=torch.float32)
pipe = StableDiffusionXLInstantIDPipeline.from_pretrained(
    base_model_path, controlnet=controlnet, torch_dtype=torch.float32
)
if torch.cuda.is_available():
    pipe.cuda()
pipe.load_ip_adapter_instantid(face_adapter)

face_image = Image.open(photo)
face_kps = draw_kps(face_image, face_info["kps"])

image = pipe(
    prompt="analog film photo of a man",
    negative_prompt="(lowres, low quality, worst quality:1.2), (text:1.2), watermark",
    image_embeds=face_info["embedding"],
    image=face_kps,
    controlnet_conditioning_scale=0.8,
    ip_adapter_scale=0.8,
    num_inference_steps=2,
    guidance_scale=5,
).images[0]
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny weights in the layout of the hub: a base, and InstantID's checkpoint folder."""
    root = tmp_path_factory.mktemp("hub")
    parts = tiny_components("instantid-sdxl")
    # The published file does not tell the width of a head: it is always 64.
    projector = InstantIDProjector(dim=64, depth=2, dim_head=64, heads=2, output_dim=64)
    write_published(Published(projector, parts["cross_attention"], parts["controlnet"]), root / "checkpoints")
    base = {n: p for n, p in parts.items() if n not in ("controlnet", "projector", "cross_attention")}
    StableDiffusionXLPipeline(**base).save_pretrained(root / "base")
    Image.new("RGB", (64, 64), "grey").save(root / "photo.png")
    return {
        "checkpoints": root / "checkpoints",
        "base_model_path": root / "base",
        "photo": root / "photo.png",
    }


def test_the_same_calls_on_the_embedded_weights() -> None:
    """As :data:`SCRIPT`, with the pipeline for SD1.5-family bases and the sizes of the embedded model."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    from idpersona.pipelines import StableDiffusionInstantIDPipeline, draw_kps

    assets = Path(__file__).resolve().parents[1] / "assets"
    me = read_identity("sample:astronaut")
    net = ControlNetModel.from_pretrained(assets / "instantid-mini" / "identitynet")
    pipe: Any = StableDiffusionInstantIDPipeline.from_pretrained(
        assets / "mini", controlnet=net, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter_instantid(assets / "instantid-mini")
    points = np.array([[45, 60], [83, 60], [64, 82], [49, 100], [79, 100]], dtype=np.float32)

    def draw(embedding: np.ndarray, kps: np.ndarray, scale: float = 1.0) -> np.ndarray:
        return pipe(
            prompt="a photo of a person",
            image_embeds=embedding,
            image=draw_kps((128, 128), kps, radius=3, stick_width=1),
            controlnet_conditioning_scale=scale,
            ip_adapter_scale=scale,
            num_inference_steps=3,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]

    hers = me.features["dlib"].values[0]
    drawn = draw(hers, points)
    assert drawn.shape == (128, 128, 3)
    # Another person, other keypoints: neither is without effect; a scale of 0 is the base's picture.
    assert np.abs(drawn - draw(np.roll(hers, 7), points)).mean() > 0.01
    assert np.abs(drawn - draw(hers, points + 12)).mean() > 0.01
    assert np.abs(draw(hers, points, 0.0) - draw(np.roll(hers, 7), points + 12, 0.0)).max() < 1e-4


def test_published_script_runs(folders: dict[str, Path]) -> None:
    face_info = {
        "kps": np.array([[22, 24], [42, 23], [32, 34], [24, 44], [41, 45]], dtype=np.float32),
        "embedding": np.random.default_rng(0).standard_normal(512).astype(np.float32),
    }
    names: dict[str, Any] = {**folders, "face_info": face_info}
    names["base_model_path"] = str(folders["base_model_path"])
    torch.manual_seed(0)
    exec(compile(SCRIPT, "infer.py", "exec"), names)
    assert names["image"].size == (64, 64)
    assert names["pipe"].projector.config["num_tokens"] == 16
    assert names["pipe"].identity_scale == 0.8
