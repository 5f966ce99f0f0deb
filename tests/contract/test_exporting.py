"""Contract: what is exported in a published layout is the same adapter again, also for diffusers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.controlnets.controlnet import ControlNetModel
from safetensors.torch import load_file
from torch import nn

from idpersona.adapters import load_adapter
from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.modules import InstantIDProjector
from idpersona.adapters.ip_adapter.adapter import FaceID, IPAdapter
from idpersona.adapters.ip_adapter.config import IPAdapterConfig
from idpersona.adapters.ip_adapter.modules import IPAdapterCrossAttention, IPAdapterProjector
from idpersona.adapters.loading import load_as_stored
from idpersona.errors import BadInput, CheckpointError, OutputError
from idpersona.identity import Feature, Identity
from idpersona.testing import tiny_components
from idpersona.testing.anymaker import tiny_anymaker
from idpersona.testing.infinite_id import tiny_infinite_id
from idpersona.testing.ip_adapter import FACE_DIM, IMAGE_DIM, tiny_faceid, tiny_ip_adapter
from idpersona.testing.wplus import tiny_wplus

WIDTH = 32
"""Of a token, on the tiny SD1.5."""
RESAMPLER = {"output_dims": WIDTH, "depth": 4, "heads": 1, "dim_head": 64}
SIZES: dict[str, dict[str, int]] = {
    "base": {"image_embed_dim": IMAGE_DIM, "cross_attention_dim": WIDTH, "num_image_text_embeds": 4},
    "full": {"image_embed_dim": IMAGE_DIM, "cross_attention_dim": WIDTH},
    "faceid": {"image_embed_dim": FACE_DIM, "cross_attention_dim": WIDTH, "mult": 2, "num_tokens": 4},
    "plus": RESAMPLER | {"embed_dims": 24, "hidden_dims": 16, "num_queries": 3},
    "faceid-plus": RESAMPLER
    | {"embed_dims": WIDTH, "hidden_dims": 24, "id_embeddings_dim": FACE_DIM, "num_tokens": 4},
}
FACE = "clip-h-face-penultimate"


def published_keys(kind: str) -> set[str]:
    """Names in ``image_proj`` of the published files; Plus is the resampler that InstantID took over."""
    both = ("weight", "bias")
    if kind in ("plus", "faceid-plus"):
        path = Path(__file__).parents[1] / "golden" / "full_resampler_keys.json"
        resampler = set(json.loads(path.read_text()))
        if kind == "plus":
            return resampler
        names = {f"perceiver_resampler.{key}" for key in resampler - {"latents"}}
        return names | {f"{module}.{leaf}" for module in ("norm", "proj.0", "proj.2") for leaf in both}
    modules = {"base": ("proj", "norm"), "full": ("proj.0", "proj.2", "proj.3")}
    return {f"{module}.{leaf}" for module in modules.get(kind, ("proj.0", "proj.2", "norm")) for leaf in both}


def new_pipe() -> Any:
    pipe = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> Any:
    return new_pipe()


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def same(one: nn.Module, other: nn.Module) -> bool:
    """Names, dtypes and every bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_an_export_is_the_same_adapter_again(row: Any, tmp_path: Path) -> None:
    """It draws the same latents; stored in another dtype, it comes back in that one, bit for bit."""
    done = row.adapter.save_published(tmp_path / "full")
    assert {p.name for p in tmp_path.iterdir()} == {"full"} == {done.folder.name}
    again = load_adapter(done.folder, base=row.pipe, **done.fields)
    assert type(again) is type(row.adapter) and again.config_dict() == row.adapter.config_dict()
    with row.attach(row.person(1)):
        expected = row.draw()
    with row.attach(row.person(1), adapter=again):
        assert torch.equal(row.draw(), expected)
    half = copy.deepcopy(row.adapter).to(dtype=torch.float16)
    stored = load_as_stored(half.save_published(tmp_path / "half").folder, row.pipe, **done.fields)
    assert all(same(part, half.parts[name]) for name, part in stored.parts.items())
    # W+ has directions, for which its layout has no place.
    left = set(half.parts) - set(stored.parts)
    assert left <= {"directions"} and all(any(name in note for note in done.notes) for name in left)


def test_an_export_replaces_nothing_but_an_export(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    row.adapter.save_published(folder)
    written = content(folder)
    with pytest.raises(OutputError, match="not empty"):
        row.adapter.save_published(folder)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")  # torch's own words for a full disk

    with monkeypatch.context() as patch:
        patch.setattr(row.adapter, "write_published", full)
        with pytest.raises(OutputError, match="unexpected pos"):
            row.adapter.save_published(folder, force=True)
        with pytest.raises(OutputError, match="unexpected pos"):
            row.adapter.save_published(tmp_path / "new")
    assert content(folder) == written and not (tmp_path / "new").exists()

    (folder / row.adapter.published_name).write_bytes(b"old")
    row.adapter.save_published(folder, force=True)
    assert content(folder) == written
    (folder / "thesis.txt").write_text("mine")
    (folder / row.adapter.published_name).write_bytes(b"old")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        row.adapter.save_published(folder, force=True)
    assert content(folder) == written | {"thesis.txt": b"mine", row.adapter.published_name: b"old"}
    with pytest.raises(OutputError, match="is a file"):
        row.adapter.save_published(folder / "thesis.txt", force=True)


@pytest.mark.parametrize("make", [tiny_infinite_id, tiny_anymaker, lambda _: load_adapter("decor")])
def test_what_has_no_published_layout_is_refused(pipe: Any, tmp_path: Path, make: Any) -> None:
    adapter = make(pipe.unet)
    with pytest.raises(BadInput, match=f"{adapter.name} has (been published|no weights)"):
        adapter.save_published(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def instantid() -> InstantID:
    """Sizes that diffusers takes for granted: four layers, heads of 64, four times as wide inside."""
    parts = tiny_components("instantid-sd15")
    torch.manual_seed(0)
    config = InstantIDConfig(dim=32, heads=2, num_tokens=4, output_dim=WIDTH, resize_max_side=640)
    projector = InstantIDProjector(**config.projector_sizes())
    # Without this the tokens of nobody, zeros, would be all but the same as somebody's.
    nn.init.normal_(projector.norm_out.bias)
    return InstantID(projector.eval(), parts["cross_attention"], parts["controlnet"], config)


def test_stock_diffusers_reads_the_exported_instantid(pipe: Any, tmp_path: Path) -> None:
    """The net as a ControlNet; the rest as an IP-Adapter Plus, which draws what ours does without the net."""
    adapter = instantid()
    done = adapter.save_published(tmp_path / "out")
    assert done.fields == {"resize_max_side": 640} and done.notes == ()
    net = ControlNetModel.from_pretrained(done.folder / "ControlNetModel")
    assert adapter.identitynet is not None and same(net, adapter.identitynet)
    assert dict(net.config)["conditioning_embedding_out_channels"] == [16, 32]

    values = np.random.default_rng(3).standard_normal((1, 512)).astype(np.float32)
    who = Identity("face", {"antelopev2": Feature("antelopev2", values)})
    with adapter.attach(pipe, who, scale={"identity": 1.0, "net": 0.0}):
        ours = draw(pipe)
    other = new_pipe()
    other.load_ip_adapter(done.folder, subfolder="", weight_name="ip-adapter.bin", image_encoder_folder=None)
    face = torch.tensor(values)[None, None]
    theirs = draw(other, ip_adapter_image_embeds=[torch.cat([torch.zeros_like(face), face])])
    assert float((ours - theirs).abs().max()) < 1e-3
    assert float((ours - draw(pipe)).abs().max()) > 1e-1


def draw(pipe: Any, **given: Any) -> torch.Tensor:
    return pipe(
        "a photo of a smiling man",
        num_inference_steps=2,
        guidance_scale=5.0,
        height=64,
        width=64,
        output_type="latent",
        generator=torch.Generator().manual_seed(7),
        **given,
    ).images


def test_an_instantid_without_its_net_says_so(pipe: Any, tmp_path: Path) -> None:
    """And does not take that of an older export for its own."""
    adapter = instantid()
    adapter.save_published(tmp_path / "out")
    adapter.identitynet = None
    with pytest.raises(OutputError, match="ControlNetModel"):
        adapter.save_published(tmp_path / "out", force=True)
    done = adapter.save_published(tmp_path / "alone")
    assert "no IdentityNet" in done.notes[0]
    again: Any = load_adapter(done.folder, base=pipe, **done.fields)
    assert again.identitynet is None and same(again.projector, adapter.projector)


def test_the_published_names_of_wplus(pipe: Any, tmp_path: Path) -> None:
    adapter = tiny_wplus(pipe.unet)
    done = adapter.save_published(tmp_path / "out")
    assert "directions" in done.notes[0] and done.fields == {"dim": 32, "delay": 0.0}
    found = torch.load(tmp_path / "out" / "wplus_adapter.bin", weights_only=True)
    assert set(found["w_proj"]) == {
        "proj_0.weight",
        "proj_1.weight",
        "proj_2.weight",
        "norm.weight",
        "norm.bias",
    }
    numbers = range(1, 2 * len(adapter.cross_attention.layers), 2)
    wanted = {f"{n}.to_{kind}_wplus.weight" for n in numbers for kind in "qkv"}
    assert set(found["wplus_adapter"]) == wanted


@pytest.mark.parametrize(
    ("kind", "config", "file"),
    [
        ("base", IPAdapterConfig(), "ip-adapter_32"),
        ("full", IPAdapterConfig(FACE), "ip-adapter-full-face_32"),
        ("plus", IPAdapterConfig("clip-h-penultimate"), "ip-adapter-plus_32"),
        ("plus", IPAdapterConfig(FACE), "ip-adapter-plus-face_32"),
        ("faceid", IPAdapterConfig("none", "buffalo_l"), "ip-adapter-faceid_32"),
        ("faceid-plus", IPAdapterConfig(FACE, "buffalo_l"), "ip-adapter-faceid-plus_32"),
        ("faceid-plus", IPAdapterConfig(FACE, "buffalo_l", True), "ip-adapter-faceid-plusv2_32"),
    ],
)
def test_diffusers_and_we_read_every_kind_of_ip_adapter(
    pipe: Any, tmp_path: Path, kind: str, config: IPAdapterConfig, file: str
) -> None:
    """diffusers has a reader of its own: its projection and its layers hold the very same tensors."""
    made: type[IPAdapter] = FaceID if kind in FaceID.kinds else IPAdapter
    torch.manual_seed(0)
    adapter = made(
        IPAdapterProjector(kind, SIZES[kind]), IPAdapterCrossAttention.from_unet(pipe.unet), config=config
    )
    done = adapter.save_published(tmp_path)
    assert done.fields == {} and [p.stem for p in tmp_path.iterdir()] == [file]
    written = load_file(tmp_path / f"{file}.safetensors")
    assert {key[11:] for key in written if key.startswith("image_proj.")} == published_keys(kind)
    again: Any = load_adapter(tmp_path, base=pipe)
    assert type(again) is made and again.config == config
    assert same(again.projector, adapter.projector) and same(again.cross_attention, adapter.cross_attention)

    other = new_pipe()
    name = f"{file}.safetensors"
    other.load_ip_adapter(tmp_path, subfolder="", weight_name=name, image_encoder_folder=None)
    (theirs,) = other.unet.encoder_hid_proj.image_projection_layers
    assert same(theirs, adapter.projector.projection)
    for layer in adapter.cross_attention.layers:
        processor = other.unet.attn_processors[f"{layer}.processor"]
        pair = adapter.cross_attention.get_submodule(layer)
        assert same(processor.to_k_ip[0], pair.get_submodule("to_k_ip"))
        assert same(processor.to_v_ip[0], pair.get_submodule("to_v_ip"))


@pytest.mark.parametrize("make", [tiny_ip_adapter, tiny_faceid])
def test_stock_diffusers_draws_an_exported_ip_adapter(pipe: Any, tmp_path: Path, make: Any) -> None:
    adapter = make(pipe.unet)
    done = adapter.save_published(tmp_path)
    name, dim = ("clip-h-embed", IMAGE_DIM) if make is tiny_ip_adapter else ("buffalo_l", FACE_DIM)
    values = np.random.default_rng(3).standard_normal((1, dim)).astype(np.float32)
    values /= np.linalg.norm(values)  # diffusers wants face vectors of that length
    who = Identity("object" if "clip" in name else "face", {name: Feature(name, values)})
    with adapter.attach(pipe, who):
        ours = draw(pipe)
    other = new_pipe()
    (file,) = done.folder.iterdir()
    other.load_ip_adapter(done.folder, subfolder="", weight_name=file.name, image_encoder_folder=None)
    seen = torch.tensor(values)[None]
    theirs = draw(other, ip_adapter_image_embeds=[torch.cat([torch.zeros_like(seen), seen])])
    assert float((ours - theirs).abs().max()) < 1e-3
    assert float((ours - draw(pipe)).abs().max()) > 1e-2


def test_sizes_that_no_reader_could_know_are_refused(pipe: Any, tmp_path: Path) -> None:
    projector = IPAdapterProjector("plus", SIZES["plus"] | {"heads": 4, "dim_head": 16})
    adapter = IPAdapter(projector, IPAdapterCrossAttention.from_unet(pipe.unet))
    with pytest.raises(BadInput, match="4 heads are 16 wide"):
        adapter.save_published(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_run_says_where_its_adapters_are(pipe: Any, tmp_path: Path) -> None:
    tiny_wplus(pipe.unet).save_pretrained(tmp_path / "checkpoints" / "step-2")
    with pytest.raises(CheckpointError, match=r"further down there are checkpoints/step-2: give one"):
        load_adapter(tmp_path)
    tiny_wplus(pipe.unet).save_pretrained(tmp_path / "wplus")
    with pytest.raises(CheckpointError, match=r"further down there are checkpoints/step-2, wplus: give one"):
        load_adapter(tmp_path)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is a LoRA.*load_lora_weights"):
        load_adapter(tmp_path / "lora")
