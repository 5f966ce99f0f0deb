"""The scope on every stock pipeline of a family, on bases with more channels, and beside what users add."""

from __future__ import annotations

import itertools
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image

KINDS = ("Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")


def _relative(row: Any, kind: str, **parts: Any) -> Any:
    """Another stock pipeline around the components of the row's."""
    if kind == "Inpaint" and row.pipe.unet.config.in_channels != 4:
        pytest.skip("diffusers' inpainting takes bases with 4 latent channels only")
    name = type(row.pipe).__name__.replace("Pipeline", f"{kind}Pipeline")
    components = row.pipe.components | parts
    if "ControlNet" in kind:
        halvings = int(math.log2(row.pipe.vae_scale_factor))
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(
            row.pipe.unet, conditioning_embedding_out_channels=(16,) * (halvings + 1)
        )
        components["controlnet"] = net.eval()
    if "safety_checker" in components:
        components["requires_safety_checker"] = False
    pipe = getattr(diffusers, name)(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pictures(row: Any, kind: str) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 255, (row.size, row.size, 3), dtype=np.uint8)
    photo, region = Image.fromarray(pixels), Image.new("L", (row.size, row.size), 255)
    pictures: dict[str, Any] = {"image": photo}
    if kind.startswith("ControlNet") and kind != "ControlNet":
        pictures["control_image"] = photo
    if "Inpaint" in kind:
        pictures["mask_image"] = region
    if "Img2Img" in kind or "Inpaint" in kind:
        pictures["strength"] = 0.9
    return pictures


def _draw(row: Any, pipe: Any, kind: str = "", **changes: Any) -> torch.Tensor:
    call = (_pictures(row, kind) if kind else {}) | changes
    if kind.endswith("Img2Img"):
        call |= {"height": None, "width": None}
        if kind == "Img2Img":  # takes its size from the picture and has no such arguments
            return pipe(
                "a photo of a smiling man",
                num_inference_steps=3,
                output_type="latent",
                generator=torch.Generator().manual_seed(7),
                **{name: value for name, value in call.items() if name not in ("height", "width")},
            ).images
    return row.draw(pipe, num_inference_steps=3, generator=torch.Generator().manual_seed(7), **call)


def _acts_and_leaves_no_trace(row: Any, pipe: Any, kind: str = "", **changes: Any) -> None:
    before = _draw(row, pipe, kind, **changes)
    drawn = [before]
    blends = "Inpaint" in kind and pipe.unet.config.in_channels == pipe.vae.config.latent_channels
    # No second stream can follow a pipeline that puts the known picture back after every step.
    options = {"scale": row.only("identity")} if blends and "mixed" in row.seams else {}
    for window in ({}, {"start": 0.3}) if row.windows else ({},):
        with row.attach(row.person(1), pipe=pipe, **options | window):
            drawn.append(_draw(row, pipe, kind, **changes))
    assert torch.equal(_draw(row, pipe, kind, **changes), before)
    for one, other in itertools.combinations(drawn, 2):
        assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_stock_pipeline_of_the_family(row: Any, kind: str) -> None:
    _acts_and_leaves_no_trace(row, _relative(row, kind), kind)


def test_on_an_inpainting_base_with_nine_channels(row: Any) -> None:
    """Mask and masked picture follow the latents in its input; an adapter's nets see the latents alone."""
    config = dict(row.pipe.unet.config)
    latents = config["in_channels"]
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config | {"in_channels": 2 * latents + 1}).eval()
    pipe = _relative(row, "Inpaint", unet=unet)
    nets = [part for part in row.adapter.parts.values() if isinstance(part, ControlNetModel)]
    fed: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    handles = [
        net.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone())) for net in nets
    ]
    handles.append(unet.register_forward_pre_hook(lambda _module, args: fed.append(args[0].clone())))
    try:
        with row.attach(row.person(1), pipe=pipe):
            _draw(row, pipe, "Inpaint")
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == len(fed) * len(nets)
    for given, whole in zip(seen, fed if nets else (), strict=True):
        assert torch.equal(given, whole[:, :latents])
    _acts_and_leaves_no_trace(row, pipe, "Inpaint")


def test_beside_a_lora(row: Any, new_row: Any) -> None:
    peft = pytest.importorskip("peft")
    own = new_row(row)
    torch.manual_seed(0)
    own.pipe.unet.add_adapter(
        peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    plain = row.draw(num_inference_steps=3, generator=torch.Generator().manual_seed(7))
    assert not torch.allclose(_draw(own, own.pipe), plain, atol=1e-3)
    _acts_and_leaves_no_trace(own, own.pipe, cross_attention_kwargs={"scale": 0.5})


def test_beside_a_plain_ip_adapter(row: Any, new_row: Any) -> None:
    """Its picture embeddings reach the U-Net as a list that no ControlNet takes."""
    own = new_row(row)
    unet: Any = own.pipe.unet
    width = unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(3)
    image_proj = {
        "proj.weight": torch.randn(4 * width, 24, generator=generator) * 0.2,
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    ip_adapter = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for key in ("to_k_ip", "to_v_ip"):
                weight = torch.randn(layer.inner_dim, width, generator=generator) * 0.2
                ip_adapter[f"{number}.{key}.weight"] = weight
    unet._load_ip_adapter_weights({"image_proj": image_proj, "ip_adapter": ip_adapter})
    own.pipe.set_ip_adapter_scale(0.7)
    embeds = [torch.randn(2, 1, 24, generator=generator)]
    _acts_and_leaves_no_trace(own, own.pipe, ip_adapter_image_embeds=embeds)
