"""What is InstantID's own: numeric goldens, published layouts, loading."""

from __future__ import annotations

import importlib.util
import pickle
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from idpersona.adapters import adapter_names, load_adapter
from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.controlnet_sizes import controlnet_config
from idpersona.adapters.instantid.convert import Published, read_published, write_published
from idpersona.adapters.instantid.modules import InstantIDProjector
from idpersona.adapters.layer_numbers import numbered, sdxl_layers
from idpersona.adapters.loading import base_family
from idpersona.errors import BadInput, CheckpointError, IdentityFileError, MissingWeights
from idpersona.identity import Feature, Identity
from idpersona.seams.cross import cross_layers
from idpersona.testing import tiny_components

KPS = np.array([[22, 24], [42, 23], [32, 34], [24, 44], [41, 45]], dtype=np.float32)


def _golden_module() -> ModuleType:
    path = Path(__file__).parents[1] / "golden" / "conftest.py"
    spec = importlib.util.spec_from_file_location("golden_instantid", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    return _golden_module()


@pytest.fixture(scope="module")
def parts(golden: ModuleType) -> dict[str, Any]:
    return golden.build_components()


@pytest.fixture
def published(golden: ModuleType, parts: dict[str, Any], tmp_path: Path) -> Path:
    """A folder as InstantX publishes it, at toy size."""
    torch.save(golden.build_checkpoint(parts["unet"]), tmp_path / "ip-adapter.bin")
    parts["controlnet"].save_pretrained(tmp_path / "ControlNetModel")
    return tmp_path


@pytest.fixture
def pipe(parts: dict[str, Any]) -> Any:
    stock = StableDiffusionXLPipeline(**{k: v for k, v in parts.items() if k != "controlnet"})
    stock.set_progress_bar_config(disable=True)
    return stock


def person(values: Any, keypoints: Any = KPS) -> Identity:
    rows = np.asarray(values, dtype=np.float32).reshape(-1, np.shape(values)[-1])
    feature = Feature(encoder="antelopev2", values=rows)
    return Identity("face", {"antelopev2": feature}, keypoints=keypoints, image_size=(64, 64))


# goldens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "guidance", "identity", "net"),
    [
        ("out.base", 5.0, 0.8, 0.8),
        ("out.nocfg", 1.0, 0.8, 0.8),
        ("out.cn_scale0", 5.0, 0.8, 0.0),
        ("out.cn0_ip0", 5.0, 0.0, 0.0),
    ],
)
def test_attached_to_a_stock_pipeline_it_equals_the_reference(
    golden: ModuleType, published: Path, pipe: Any, case: str, guidance: float, identity: float, net: float
) -> None:
    """Two threads move the reference itself by 4e-5; the nearest wrong variant is 1.8 away."""
    tensors = load_file(golden.HERE / "instantid.safetensors")
    adapter = load_adapter(published, base=pipe)
    me = person(tensors["face_embedding"].numpy())
    drawing = Image.fromarray(tensors["kps_image"].numpy())
    with adapter.attach(pipe, me, scale={"identity": identity, "net": net}, pose=drawing):
        out = pipe(
            "a photo of a man",
            num_inference_steps=3,
            guidance_scale=guidance,
            latents=tensors["latents_in"].clone(),
            output_type="latent",
            height=64,
            width=64,
        ).images
    torch.testing.assert_close(out, tensors[case], atol=1e-3, rtol=0)


def test_tokens_equal_the_references(golden: ModuleType, published: Path, pipe: Any) -> None:
    tensors = load_file(golden.HERE / "instantid.safetensors")
    adapter: Any = load_adapter(published, base=pipe)
    both = torch.cat(
        [adapter.unconditional_tokens(), adapter.tokens(person(tensors["face_embedding"].numpy()))]
    )
    torch.testing.assert_close(both, tensors["image_tokens_cfg"], atol=1e-4, rtol=1e-4)


def test_several_photos_concatenated_are_still_one_person(published: Path, pipe: Any) -> None:
    adapter: Any = load_adapter(published, base=pipe)
    rows = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    tokens = adapter.tokens([person(rows), person(rows[:1])])
    assert tokens.shape == (2, 16, 64)
    torch.testing.assert_close(tokens[1], adapter.tokens(person(rows[:1]))[0])
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-3)


# published layouts ------------------------------------------------------------------------------------------


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_all_layouts_hold_the_same_adapter(
    golden: ModuleType, parts: dict[str, Any], published: Path, tmp_path: Path
) -> None:
    layers = list(cross_layers(parts["unet"]))
    checkpoint = golden.build_checkpoint(parts["unet"])
    expected = read_published(published, layers=layers)
    assert expected.projector is not None and expected.cross_attention is not None
    assert expected.identitynet is not None
    assert expected.projector.config["heads"] == 2 and expected.projector.config["depth"] == 4

    mface = tmp_path / "mface"
    mface.mkdir()
    torch.save(checkpoint, mface / "pytorch_model.bin")
    parts["controlnet"].save_pretrained(mface / "controlnet")

    community = tmp_path / "community"
    community.mkdir()
    names = numbered(layers)
    named = {
        f"module.{names[int(key.split('.')[0])]}.processor.{key.split('.', 1)[1]}": value
        for key, value in checkpoint["ip_adapter"].items()
    }
    for file, state in (("image_proj", checkpoint["image_proj"]), ("ip-state", named)):
        torch.save({"epoch": 1, "global_step": 2, "state_dict": state}, community / f"{file}.ckpt")

    flat = tmp_path / "mirror.safetensors"
    save_file({f"{part}.{k}": v for part, state in checkpoint.items() for k, v in state.items()}, flat)

    ours = tmp_path / "written"
    write_published(expected, ours)

    for path in (mface, community, flat, ours):
        found = read_published(path, layers=layers)
        assert found.projector is not None and _same(found.projector, expected.projector), path
        assert found.cross_attention is not None and _same(found.cross_attention, expected.cross_attention)
        assert dict(found.cross_attention.config["geometry"]) == dict(
            expected.cross_attention.config["geometry"]
        )
        if path in (mface, ours):
            assert found.identitynet is not None and _same(found.identitynet, expected.identitynet)
    keys = torch.load(ours / "ip-adapter.bin", weights_only=True)
    assert {part: set(state) for part, state in keys.items()} == {k: set(v) for k, v in checkpoint.items()}


@pytest.mark.parametrize("part", ["image_proj", "ip_adapter"])
@pytest.mark.parametrize("bare", [True, False])
def test_a_file_may_hold_one_part(
    golden: ModuleType, parts: dict[str, Any], tmp_path: Path, part: str, bare: bool
) -> None:
    state = golden.build_checkpoint(parts["unet"])[part]
    file = tmp_path / "part.bin"
    torch.save(state if bare else {part: state}, file)
    found = read_published(file, layers=list(cross_layers(parts["unet"])))
    assert (found.projector is None) == (part == "ip_adapter")
    assert (found.cross_attention is None) == (part == "image_proj")
    with pytest.raises(CheckpointError, match="is missing"):
        InstantID.from_published(file, layers=list(cross_layers(parts["unet"])))


def test_controlnet_tensors_without_a_configuration(tmp_path: Path) -> None:
    """The community's controlnet.ckpt: sizes come back from the tensors alone."""
    net = tiny_components("instantid-sd15")["controlnet"]
    config = controlnet_config(net.state_dict(), "net")
    for key in ("in_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim"):
        assert config[key] == net.config[key], key
    for key in ("block_out_channels", "down_block_types", "conditioning_embedding_out_channels"):
        assert list(config[key]) == list(net.config[key]), key
    torch.save({"epoch": 0, "global_step": 0, "state_dict": net.state_dict()}, tmp_path / "controlnet.ckpt")
    parts = tiny_components("instantid-sd15")
    torch.save({"state_dict": parts["projector"].state_dict()}, tmp_path / "image_proj.ckpt")
    named = {
        key.replace(".to_", ".processor.to_"): value
        for key, value in parts["cross_attention"].state_dict().items()
    }
    torch.save({"state_dict": named}, tmp_path / "ip-state.ckpt")
    found = read_published(tmp_path)
    assert found.identitynet is not None and _same(found.identitynet, net)
    assert found.projector is not None and found.projector.config["heads"] == 1


def test_another_width_of_heads_survives_the_published_layout(tmp_path: Path) -> None:
    """No tensor shows it, and with the wrong one the tokens are silently others."""
    projector = InstantIDProjector(8, 16, 1, 16, 4, 4, 32, 2)
    write_published(Published(projector), tmp_path)
    found = read_published(tmp_path).projector
    assert found is not None and (found.config["dim_head"], found.config["heads"]) == (16, 4)
    face = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(face), projector.eval()(face))
    with pytest.raises(CheckpointError, match="dim_head 48"):
        read_published(tmp_path, dim_head=48)


@pytest.mark.parametrize(
    ("image_proj", "says"),
    [
        ([1], "list"),
        (3, "int"),
        (torch.ones(3), "Tensor"),
        ({"latents": 1}, "no tensors at: latents"),
        ("nan", "not finite"),
        ("int", "int64"),
        ("complex", "complex64"),
    ],
)
def test_what_is_no_projector_is_refused_in_one_line(image_proj: Any, says: str, tmp_path: Path) -> None:
    if isinstance(image_proj, str):
        state = tiny_components("instantid-sd15")["projector"].state_dict()
        kind = {"nan": torch.float32, "int": torch.int64, "complex": torch.complex64}[image_proj]
        image_proj = state | {"norm_out.bias": torch.full((32,), torch.nan).nan_to_num(0).to(kind)}
        if kind is torch.float32:
            image_proj["norm_out.bias"][3] = torch.nan
    torch.save({"image_proj": image_proj, "ip_adapter": {}}, tmp_path / "ip-adapter.bin")
    with pytest.raises(CheckpointError, match=says):
        read_published(tmp_path)


def test_the_recorded_sdxl_numbers() -> None:
    layers = sdxl_layers()
    assert list(layers) == list(range(1, 140, 2))
    assert layers[1] == "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    assert layers[119].startswith("up_blocks.1.") and layers[121].startswith("mid_block.")
    assert numbered(reversed(list(layers.values()))) == layers, "the rule does not depend on the order given"


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"image_proj": Evil()}, "evil.bin")
    Path("plain.bin").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.bin", "plain.bin"):
        with pytest.raises(CheckpointError, match="more than tensors"):
            read_published(name)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("content", [b"", b".", b"\x80\x02", b"\x80\x02}q\x00K", b"\x80\x04\x95\xff"])
def test_a_damaged_pickle_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ip-adapter.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ip-adapter\.bin") as refused:
        read_published(tmp_path / "ip-adapter.bin")
    assert len(str(refused.value).splitlines()) == 1


def test_an_object_is_no_face(published: Path, pipe: Any) -> None:
    adapter = load_adapter(published, base=pipe)
    cup = replace(person(np.ones(512)), kind="object")
    with pytest.raises(BadInput, match="kind 'object'"), adapter.attach(pipe, cup):
        pass


def test_wrong_checkpoints_name_three_keys(golden: ModuleType, parts: dict[str, Any], tmp_path: Path) -> None:
    layers = list(cross_layers(parts["unet"]))
    good = golden.build_checkpoint(parts["unet"])
    key = "layers.2.0.to_kv.weight"
    cases = {
        "image_proj": {"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1), "d": torch.ones(1)},
        "layers.0.0.norm1.weight": good
        | {"image_proj": {k: v for k, v in good["image_proj"].items() if "norm1" not in k}},
        key: good | {"image_proj": good["image_proj"] | {key: torch.ones(2, 2)}},
        "2.to_k_ip.weight": good
        | {"ip_adapter": good["ip_adapter"] | {"2.to_k_ip.weight": torch.ones(2, 2)}},
        "to_v_ip": good
        | {"ip_adapter": {k: v for k, v in good["ip_adapter"].items() if k != "1.to_v_ip.weight"}},
        "text": good | {"image_proj": {"text": "no tensor"}},
    }
    for named, content in cases.items():
        torch.save(content, tmp_path / "bad.bin")
        with pytest.raises(CheckpointError) as caught:
            read_published(tmp_path / "bad.bin", layers=layers)
        assert named in str(caught.value) and "\n" not in str(caught.value)
    torch.save(cases["image_proj"], tmp_path / "bad.bin")
    with pytest.raises(CheckpointError, match="a, b, c and 1 more"):
        read_published(tmp_path / "bad.bin")
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        read_published(tmp_path / "absent.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no InstantID"):
        read_published(tmp_path / "empty")


def test_the_face_is_drawn_on_the_canvas_of_the_call(published: Path, pipe: Any) -> None:
    """The canvas is known only when the pipeline is called, and may change from call to call."""
    adapter: Any = load_adapter(published, base=pipe)
    seen = []
    handle = adapter.identitynet.controlnet_cond_embedding.register_forward_pre_hook(
        lambda _module, args: seen.append(args[0].shape)
    )
    with adapter.attach(pipe, person(np.ones(512))):
        for width, height in ((64, 64), (96, 64)):
            pipe(
                "x",
                num_inference_steps=1,
                height=height,
                width=width,
                output_type="latent",
                guidance_scale=1.0,
            )
    handle.remove()
    assert [tuple(shape) for shape in seen] == [(1, 3, 64, 64), (1, 3, 64, 96)]


# identities and loading -------------------------------------------------------------------------------------


def test_identities_that_do_not_fit_are_refused(published: Path, pipe: Any) -> None:
    adapter: Any = load_adapter(published, base=pipe)
    unit = np.zeros((1, 512), dtype=np.float32)
    unit[0, 0] = 1
    normalised = Identity("face", {"antelopev2": Feature("antelopev2", unit, normalised=True)})
    other = Identity("face", {"dlib": Feature("dlib", np.ones((1, 128), dtype=np.float32))})
    with pytest.raises(IdentityFileError, match=r"instantid.*antelopev2"):
        adapter.tokens(other)
    with pytest.raises(BadInput, match="own length"):
        adapter.tokens(normalised)
    with pytest.raises(BadInput, match="length 128"):
        adapter.tokens(person(np.ones(128)))


def test_without_identitynet_only_the_identity_part_works(published: Path, pipe: Any) -> None:
    adapter = load_adapter(published, base=pipe)
    adapter.identitynet = None  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="no IdentityNet"), adapter.attach(pipe, person(np.ones(512))):
        pytest.fail("the scope was entered")
    faceless = person(np.ones(512), keypoints=None)
    with adapter.attach(pipe, faceless, scale={"net": 0}):
        pipe("x", num_inference_steps=1, height=64, width=64, output_type="latent")


def test_where_an_adapter_is_looked_for(pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "instantid" in adapter_names()
    assert base_family(pipe) == "sdxl" and base_family("mini") == "mini"
    with pytest.raises(MissingWeights, match="models pull instantid"):
        load_adapter("instantid", base="sdxl")
    with pytest.raises(MissingWeights, match="sd15"):
        load_adapter("instantid", base="sd15")
    small: Any = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    with pytest.raises(BadInput, match="text width 32"):
        load_adapter("instantid", base=small)
    with pytest.raises(BadInput, match=r"unet/config\.json"):
        base_family(tmp_path)


def test_configurations_that_make_no_sense() -> None:
    for wrong in ({"dim": 0}, {"dim": True}, {"encoder": 1}, {"framing": (0.3,)}, {"framing": "ab"}):
        with pytest.raises(CheckpointError, match=next(iter(wrong))):
            InstantIDConfig.from_dict(wrong)
    config = InstantIDConfig(framing=(0.3, 0.47))
    assert InstantIDConfig.from_dict(config.to_dict()) == config
    assert InstantIDConfig.from_dict(config.to_dict() | {"framing": [0.3, 0.47]}) == config
