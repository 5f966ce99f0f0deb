"""InstantID from a picture instead of noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)

from idpersona.errors import BadInput
from idpersona.pipelines import StableDiffusionXLInstantIDImg2ImgPipeline, StableDiffusionXLInstantIDPipeline
from idpersona.testing import tiny_components, tiny_inputs

KIND = "instantid-sdxl"


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = StableDiffusionXLInstantIDImg2ImgPipeline(**tiny_components(KIND))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inputs(**overrides: Any) -> dict[str, Any]:
    given = tiny_inputs(KIND)
    picture = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    return given | {"control_image": given["image"], "image": picture, "strength": 0.5, **overrides}


def draw(pipe: Any, **overrides: Any) -> np.ndarray:
    return pipe(**inputs(num_inference_steps=4, **overrides))[0]


def largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def test_identity_pose_and_picture_act(pipe: Any) -> None:
    drawn = draw(pipe)
    assert drawn.shape == (1, 64, 64, 3)
    for changed in (
        draw(pipe, image_embeds=-inputs()["image_embeds"]),
        draw(pipe, control_image=inputs()["control_image"].flip(-1)),
        draw(pipe, image=inputs()["image"].flip(-1)),
        draw(pipe, strength=1.0),
    ):
        assert largest(drawn, changed) > 1e-3


def test_without_identity_it_is_the_stock_pipeline(pipe: Any) -> None:
    ours = draw(pipe, ip_adapter_scale=0.0, controlnet_conditioning_scale=0.0)
    pipe.identity_scale = 0.5
    names = StableDiffusionXLImg2ImgPipeline._get_signature_keys(StableDiffusionXLImg2ImgPipeline)[0]
    stock = StableDiffusionXLImg2ImgPipeline(**{name: pipe.components[name] for name in names})
    stock.set_progress_bar_config(disable=True)
    given = inputs(num_inference_steps=4)
    del given["control_image"], given["image_embeds"]
    assert np.array_equal(ours, stock(**given)[0])


def test_several_pictures_per_prompt(pipe: Any) -> None:
    generators = [torch.Generator().manual_seed(n) for n in range(2)]
    both = draw(pipe, num_images_per_prompt=2, generator=generators)
    for row in range(2):
        assert largest(both[row], draw(pipe, generator=torch.Generator().manual_seed(row))[0]) < 1e-4


def test_saved_with_its_parts(pipe: Any, tmp_path: Any) -> None:
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionXLInstantIDImg2ImgPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert largest(draw(again), draw(pipe)) < 1e-5
    text_to_image = StableDiffusionXLInstantIDPipeline.from_pipe(pipe)
    text_to_image.set_progress_bar_config(disable=True)
    assert text_to_image(**tiny_inputs(KIND))[0].shape == (1, 64, 64, 3)


def test_bad_arguments(pipe: Any) -> None:
    with pytest.raises(BadInput, match="takes no argument depth"):
        draw(pipe, depth=1)
    with pytest.raises(BadInput, match="image_embeds is needed"):
        draw(pipe, image_embeds=None)
