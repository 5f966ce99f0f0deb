"""Full-size published layouts, without their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from idpersona.adapters.instantid.controlnet_sizes import controlnet_config
from idpersona.adapters.instantid.convert import cross_attention_from, projector_from
from idpersona.errors import CheckpointError
from idpersona.pipelines.full_size import SDXL_ENCODER

HERE = Path(__file__).parent


def manifest(name: str) -> dict[str, Any]:
    return json.loads((HERE / "manifests" / f"{name}.json").read_text())


def on_meta(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


def test_sdxl_projector() -> None:
    shapes = manifest("instantid_ip-adapter")["image_proj"]
    projector = projector_from(on_meta(shapes), "ip-adapter.bin")
    assert shapes_of(projector) == shapes
    assert projector.config["heads"] == 20
    assert sum(p.numel() for p in projector.parameters()) == 81_978_624


def test_sdxl_cross_attention_resolves_the_odd_numbers() -> None:
    listed = manifest("instantid_ip-adapter")
    module = cross_attention_from(on_meta(listed["ip_adapter"]), "ip-adapter.bin")
    assert sum(p.numel() for p in module.parameters()) == 340_787_200
    for number, processor in listed["ip_adapter_index_to_unet_processor"].items():
        pair = module.get_submodule(processor.removesuffix(".processor"))
        for kind in ("to_k_ip", "to_v_ip"):
            expected = listed["ip_adapter"][f"{number}.{kind}.weight"]
            assert list(pair.get_submodule(kind).weight.shape) == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("unet", "published", "part"),
    [
        ("sdxl_unet_keys", "instantid_ip-adapter", "ip_adapter"),
        ("sd15_unet_keys", "instantid_sd15_community", "ip-state.ckpt"),
    ],
)
def test_the_cross_attention_covers_the_unet(unet: str, published: str, part: str) -> None:
    module = cross_attention_from(on_meta(manifest(published)[part]), part)
    expected = {
        key.removesuffix(".to_k.weight"): shape
        for key, shape in manifest(unet).items()
        if key.endswith("attn2.to_k.weight")
    }
    assert {name: list(size) for name, size in module.config["geometry"].items()} == expected


def test_sdxl_identitynet_is_a_stock_controlnet() -> None:
    shapes = manifest("instantid_identitynet_controlnet")["state_dict"]
    with torch.device("meta"):
        net = ControlNetModel(**SDXL_ENCODER)
    assert shapes_of(net) == shapes
    net.load_state_dict(on_meta(shapes), strict=True, assign=True)


def test_sd15_community() -> None:
    listed = manifest("instantid_sd15_community")
    projector = projector_from(on_meta(listed["image_proj.ckpt"]), "image_proj.ckpt")
    assert projector.config["output_dim"] == 768
    module = cross_attention_from(on_meta(listed["ip-state.ckpt"]), "ip-state.ckpt")
    assert len(module.layers) == 16
    assert sum(p.numel() for p in module.parameters()) == 19_169_280
    shapes = listed["controlnet.ckpt"]
    with torch.device("meta"):
        net = ControlNetModel.from_config(controlnet_config(on_meta(shapes), "controlnet.ckpt"))
    assert shapes_of(net) == shapes  # type: ignore[arg-type]


def test_foreign_keys_are_named() -> None:
    listed = manifest("instantid_ip-adapter")
    tensors = on_meta(listed["image_proj"])
    tensors["proj.bias"] = tensors.pop("proj_out.bias")
    with pytest.raises(CheckpointError, match=r"missing: proj_out\.bias; unexpected: proj\.bias"):
        projector_from(tensors, "ip-adapter.bin")
    numbered = on_meta(listed["ip_adapter"])
    numbered["141.to_k_ip.weight"] = numbered.pop("139.to_k_ip.weight")
    with pytest.raises(CheckpointError, match=r"141\.to_k_ip\.weight"):
        cross_attention_from(numbered, "ip-adapter.bin")


def test_full_size_projector_equals_the_published_one(
    golden: dict[str, Tensor], full_projector_state: dict[str, Tensor]
) -> None:
    projector = projector_from(full_projector_state, "full size")
    face = golden["face_embedding"][None]
    with torch.no_grad():
        tokens = projector(torch.cat([torch.zeros_like(face), face]))
    # float32 sums over 5120 terms, in another order than the reference's
    assert torch.allclose(tokens[..., :8], golden["full_resampler_out_first8"], atol=1e-4)
