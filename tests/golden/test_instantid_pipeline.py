"""The drop-in pipeline against the outputs of the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from PIL import Image
from torch import Tensor

from idpersona.pipelines import StableDiffusionXLInstantIDPipeline, draw_kps

# Two threads instead of one move the reference's own output by 4e-5; the nearest wrong variant is 1.8 away.
TOLERANCE = 1e-3
KEYPOINTS = [[22, 24], [42, 23], [32, 34], [24, 44], [41, 45]]


@pytest.fixture(scope="module")
def pipe(components: dict[str, Any], checkpoint_file: Path) -> StableDiffusionXLInstantIDPipeline:
    pipe = StableDiffusionXLInstantIDPipeline(**components, add_watermarker=False)
    pipe.load_ip_adapter_instantid(str(checkpoint_file))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("case", "identity_scale", "overrides"),
    [
        ("base", 0.8, {}),
        ("nocfg", 0.8, {"guidance_scale": 1.0}),
        ("cn_scale0", 0.8, {"controlnet_conditioning_scale": 0.0}),
        ("cn0_ip0", 0.0, {"controlnet_conditioning_scale": 0.0}),
    ],
)
def test_equals_the_published_pipeline(
    pipe: StableDiffusionXLInstantIDPipeline,
    golden: dict[str, Tensor],
    call: dict[str, Any],
    case: str,
    identity_scale: float,
    overrides: dict[str, Any],
) -> None:
    pipe.set_ip_adapter_scale(identity_scale)
    call |= overrides | {"image_embeds": golden["face_embedding"].numpy()}
    ours: Any = pipe(**call)[0]
    assert torch.allclose(ours, golden[f"out.{case}"], atol=TOLERANCE, rtol=0)


def test_tolerance_separates_the_cases(golden: dict[str, Tensor]) -> None:
    cases = [golden[f"out.{name}"] for name in ("base", "nocfg", "cn_scale0", "cn0_ip0")]
    apart = [float((a - b).abs().max()) for i, a in enumerate(cases) for b in cases[:i]]
    assert min(apart) > 100 * TOLERANCE


def test_projector_equals_the_published_one(
    pipe: StableDiffusionXLInstantIDPipeline, golden: dict[str, Tensor]
) -> None:
    face = golden["face_embedding"][None]
    assert pipe.projector is not None
    with torch.no_grad():
        tokens = pipe.projector(torch.cat([torch.zeros_like(face), face]))
    assert torch.allclose(tokens, golden["image_tokens_cfg"], atol=1e-5)
    assert torch.allclose(tokens[1:], golden["image_tokens_nocfg"], atol=1e-5)


def test_keypoint_picture_is_pixel_exact(golden: dict[str, Tensor]) -> None:
    drawn = draw_kps(Image.new("RGB", (64, 64)), KEYPOINTS)
    assert np.array_equal(np.asarray(drawn), golden["kps_image"].numpy())


def test_equals_stock_diffusers_with_tokens_for_identitynet(
    pipe: StableDiffusionXLInstantIDPipeline,
    components: dict[str, Any],
    checkpoint: dict[str, dict[str, Tensor]],
    golden: dict[str, Tensor],
    call: dict[str, Any],
) -> None:
    """A reference without any code of ours: diffusers' IP-Adapter, and a hook that swaps the context."""
    face = golden["face_embedding"][None]
    pipe.set_ip_adapter_scale(0.8)
    ours: Any = pipe(**call, image_embeds=face)[0]

    stock = StableDiffusionXLControlNetPipeline(**components, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    before = dict(stock.unet.attn_processors)
    published: Any = dict(checkpoint)
    stock.load_ip_adapter(published, subfolder="", weight_name="", image_encoder_folder=None)
    stock.set_ip_adapter_scale(0.8)
    tokens = golden["image_tokens_cfg"]
    hook = stock.controlnet.register_forward_pre_hook(
        lambda _net, args, kwargs: (args, kwargs | {"encoder_hidden_states": tokens}), with_kwargs=True
    )
    try:
        # diffusers wants [guidance pair, pictures, vectors, dim].
        pair = torch.cat([torch.zeros_like(face), face])[:, None, None]
        theirs: Any = stock(**call, ip_adapter_image_embeds=[pair])[0]
    finally:
        hook.remove()
        stock.unload_ip_adapter()
        stock.unet.set_attn_processor(before)
    assert torch.allclose(ours, theirs, atol=TOLERANCE, rtol=0)
