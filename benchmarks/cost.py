"""What an adapter costs in each denoising step, in multiplications relative to the base alone.

``python benchmarks/cost.py`` counts on full-size SD1.5 (512 px) and SDXL (1024 px) without any weights, on
the meta device, with classifier-free guidance. Counts are the same on every machine; times are not, and are
left to ``gpu.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from idpersona.adapters.anymaker.adapter import AnyMaker, local_layers
from idpersona.adapters.anymaker.config import AnyMakerConfig
from idpersona.adapters.anymaker.modules import AnyMakerCrossAttention, AnyMakerMapper
from idpersona.adapters.base import Adapter
from idpersona.adapters.infinite_id.adapter import InfiniteID
from idpersona.adapters.infinite_id.config import InfiniteIDConfig
from idpersona.adapters.infinite_id.modules import InfiniteIDCrossAttention, InfiniteIDMapper
from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.adapters.ip_adapter.adapter import IPAdapter
from idpersona.adapters.ip_adapter.modules import IPAdapterCrossAttention, IPAdapterProjector
from idpersona.adapters.wplus.adapter import WPlus
from idpersona.adapters.wplus.config import WPlusConfig
from idpersona.adapters.wplus.modules import WPlusCrossAttention, WPlusMapper
from idpersona.identity import Feature, Identity
from idpersona.pipelines.full_size import SD15_UNET, SDXL_UNET
from idpersona.testing import tiny_components


def pipeline(kind: str) -> tuple[Any, int]:
    """A pipeline whose denoiser has the full size and no weights, and the side of its latents."""
    parts = tiny_components(kind) | {"scheduler": PNDMScheduler(skip_prk_steps=True, steps_offset=1)}
    with torch.device("meta"):
        parts["unet"] = UNet2DConditionModel(**(SD15_UNET if kind == "sd15" else SDXL_UNET)).eval()
    pipe: Any
    if kind == "sd15":
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    else:
        pipe = StableDiffusionXLPipeline(**parts)
    pipe.vae_scale_factor = 8  # the tiny autoencoder's is another
    return pipe.to("meta"), 64 if kind == "sd15" else 128


def adapters(kind: str, unet: Any) -> dict[str, Callable[[], Adapter]]:
    """Adapters of full size by name, without weights."""
    width = unet.config["cross_attention_dim"]

    def instantid() -> Adapter:
        config = InstantIDConfig(output_dim=width)
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        return InstantID(
            InstantIDProjector(**config.projector_sizes()),
            IdentityCrossAttention.from_unet(unet),
            net,
            config,
        )

    def infinite_id() -> Adapter:
        config = InfiniteIDConfig(output_dim=width)
        return InfiniteID(
            InfiniteIDMapper(**config.mapper_sizes()), InfiniteIDCrossAttention.from_unet(unet), config
        )

    def wplus() -> Adapter:
        config = WPlusConfig(output_dim=width, delay=0.0)
        mapper = WPlusMapper(config.dim, config.groups, width)
        return WPlus(mapper, WPlusCrossAttention.from_unet(unet), config)

    def anymaker() -> Adapter:
        config = AnyMakerConfig(output_dim=width)
        attention = AnyMakerCrossAttention.from_unet(unet, layers=local_layers(unet))
        return AnyMaker(AnyMakerMapper(config.dims, config.hidden, width), attention, config)

    def ip_adapter() -> Adapter:
        sizes = {"image_embed_dim": 1024, "cross_attention_dim": width, "num_image_text_embeds": 4}
        return IPAdapter(IPAdapterProjector("base", sizes), IPAdapterCrossAttention.from_unet(unet))

    both = {"instantid": instantid, "ip-adapter": ip_adapter}
    return both | ({"wplus": wplus, "anymaker": anymaker} if kind == "sd15" else {"infinite-id": infinite_id})


def person(adapter: Adapter) -> Identity:
    """Somebody with the features that ``adapter`` asks for."""
    config: Any = adapter.config
    shapes: dict[str, tuple[int, int]] = {}
    for name in adapter.encoders:
        if adapter.name == "infinite-id":
            face = name == config.face_encoder
            shapes[name] = (1, config.face_dim) if face else (config.image_tokens, config.image_dim)
        elif adapter.name == "anymaker":
            shapes[name] = (257 if name == "dinov2" else 197, 1024)
        else:
            shapes[name] = {"wplus": (18, 512), "instantid": (1, 512), "ip-adapter": (1, 1024)}[adapter.name]
    features = {
        name: Feature(name, np.ones(shape, np.float32), tokens=shape[0]) for name, shape in shapes.items()
    }
    kind = "object" if adapter.name == "anymaker" else "face"
    points = np.array([[190, 220], [320, 220], [256, 290], [205, 360], [310, 360]], np.float32)
    return Identity(kind, features, keypoints=points if kind == "face" else None, image_size=(512, 512))


def count(pipe: Any, side: int) -> int:
    """Floating point operations of one guided step."""
    unet, config = pipe.unet, pipe.unet.config
    pipe.scheduler.set_timesteps(30)
    pipe._guidance_scale = 5.0
    meta = {"device": "meta"}
    inputs: dict[str, Any] = {
        "encoder_hidden_states": torch.empty(2, 77, config["cross_attention_dim"], **meta)
    }
    if config.get("addition_embed_type") == "text_time":
        added = {"text_embeds": torch.empty(2, 1280, **meta), "time_ids": torch.empty(2, 6, **meta)}
        inputs["added_cond_kwargs"] = added
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(torch.empty(2, 4, side, side, **meta), pipe.scheduler.timesteps[3], **inputs)
    return counter.get_total_flops()


def full_size(kind: str) -> dict[str, float]:
    """Method -> cost of a step relative to the base."""
    pipe, side = pipeline(kind)
    base = count(pipe, side)
    found = {}
    for name, make in adapters(kind, pipe.unet).items():
        with torch.device("meta"):
            adapter = make()
        with adapter.attach(pipe, person(adapter)):
            found[name] = count(pipe, side) / base
        if name == "infinite-id":
            with adapter.attach(pipe, person(adapter), cheap=True):
                found[f"{name}, cheap"] = count(pipe, side) / base
    return found


def main() -> int:
    """Print a table for each base."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", action="append", choices=["sd15", "sdxl"])
    for kind in parser.parse_args().base or ["sd15", "sdxl"]:
        print(f"\n{kind}")
        for name, ratio in full_size(kind).items():
            print(f"{name:20} {ratio:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
