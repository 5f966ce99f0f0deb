"""The W+ adapter: its formulas against a restatement, its published layouts, its directions."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from idpersona.adapters import load_adapter
from idpersona.adapters.wplus.branch import ResidualBranch
from idpersona.adapters.wplus.convert import (
    cross_attention_from,
    mapper_from,
    read_published,
    write_published,
)
from idpersona.adapters.wplus.directions import (
    Component,
    Step,
    parse_edits,
    read_direction,
    read_directions,
)
from idpersona.adapters.wplus.modules import WPlusMapper
from idpersona.errors import BadInput, CheckpointError, UnknownName
from idpersona.identity import Feature, Identity
from idpersona.seams.cross import cross_layers, cross_scope
from idpersona.testing import tiny_components
from idpersona.testing.wplus import DIM, GROUPS, ROWS, tiny_wplus

SHARED = Path(os.environ.get("IDPERSONA_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def adapter(pipe: Any) -> Any:
    return tiny_wplus(pipe.unet)


def person(seed: int, rows: int = ROWS, dim: int = DIM) -> Identity:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    feature = Feature(encoder="e4e", values=values, tokens=rows)
    return Identity("face", {"e4e": feature})


def test_the_mapper_in_float64() -> None:
    """Rows 0-1, 2-3 and 4-7 end to end, one bias-free matrix each, one normalisation for all."""
    torch.manual_seed(0)
    mapper = WPlusMapper(DIM, GROUPS, 24).double()
    torch.nn.init.normal_(mapper.norm.bias)
    codes = torch.randn(3, ROWS, DIM, dtype=torch.float64)
    expected = []
    first = 0
    for number, rows in enumerate(GROUPS):
        weight = mapper.get_submodule(f"proj_{number}").get_parameter("weight")
        flat = codes[:, first : first + rows].reshape(3, -1)
        token = torch.einsum("oi,bi->bo", weight, flat)
        centred = token - token.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + mapper.norm.eps).sqrt()
        expected.append(scaled * mapper.norm.weight + mapper.norm.bias)
        first += rows
    assert torch.allclose(mapper(codes), torch.stack(expected, 1), atol=1e-6)
    assert torch.allclose(mapper(torch.zeros_like(codes)), mapper.norm.bias.expand(3, len(GROUPS), -1))


def test_the_residual_cross_attention_in_float64(pipe: Any, adapter: Any) -> None:
    """out = W_o(T + s Attn(T W_q', p W_k', p W_v')), T being the text's attention before W_o."""
    unet = tiny_components("sd15")["unet"].double()
    attention = adapter.cross_attention.double()
    name, layer = next(iter(cross_layers(unet).items()))
    torch.manual_seed(1)
    hidden = torch.randn(2, 16, layer.inner_dim, dtype=torch.float64)
    text = torch.randn(2, 7, layer.cross_attention_dim, dtype=torch.float64)
    tokens = torch.randn(2, 3, layer.cross_attention_dim, dtype=torch.float64)

    def attend(query: Any, key: Any, value: Any) -> Any:
        heads, width = layer.heads, query.shape[-1] // layer.heads
        parts = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width)
            parts.append(scores.softmax(-1) @ value[..., part])
        return torch.cat(parts, -1)

    def weight(kind: str) -> Any:
        return attention.get_submodule(name).get_submodule(f"{kind}_wplus").get_parameter("weight")

    own = attend(hidden @ layer.to_q.weight.T, text @ layer.to_k.weight.T, text @ layer.to_v.weight.T)
    added = attend(own @ weight("to_q").T, tokens @ weight("to_k").T, tokens @ weight("to_v").T)
    expected = (own + 0.7 * added) @ layer.to_out[0].weight.T + layer.to_out[0].bias
    branch = ResidualBranch(attention, tokens, scale=0.7)
    with cross_scope(unet, [branch]), torch.no_grad():
        for hook in unet._forward_pre_hooks.values():  # what a pass of the whole model does first
            _run(hook, unet)
        got = layer(hidden, encoder_hidden_states=text)
    assert torch.allclose(got, expected, atol=1e-6)


def _run(hook: Any, unet: Any) -> None:
    sample = torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    try:
        hook(unet, (sample, torch.tensor(1)), {})
    except TypeError:
        hook(unet, (sample, torch.tensor(1)))


def manifest() -> dict[str, Any]:
    path = SHARED / "specs" / "manifests" / "wplus_adapter_sd15.json"
    if not path.is_file():
        pytest.skip(f"development data is not at {path}")
    return json.loads(path.read_text())


def test_the_published_keys_and_shapes_load_on_the_meta_device() -> None:
    content = manifest()
    parts = [
        {key: torch.empty(shape, device="meta") for key, shape in content[part].items()}
        for part in ("w_proj", "wplus_adapter")
    ]
    mapper = mapper_from(parts[0], "published")
    attention = cross_attention_from(parts[1], "published")
    assert sum(p.numel() for p in mapper.parameters()) == 7_079_424
    assert sum(p.numel() for p in attention.parameters()) == 31_559_680
    assert list(mapper.config["groups"]) == [4, 4, 4, 6]
    order = content["wplus_adapter_index_to_unet_processor"]
    assert attention.layers == [name.removesuffix(".processor") for name in order.values()]


def test_a_published_file_in_and_out(adapter: Any, tmp_path: Path) -> None:
    file = tmp_path / "wplus_adapter.bin"
    write_published(adapter.mapper, adapter.cross_attention, file)
    layers = adapter.cross_attention.layers
    for place in (file, tmp_path):
        mapper, attention = read_published(place, layers=layers, dim=DIM)
        assert all(torch.equal(v, adapter.mapper.state_dict()[k]) for k, v in mapper.state_dict().items())
        own = adapter.cross_attention.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in attention.state_dict().items())
    loaded: Any = type(adapter).from_published(file, layers=layers, dim=DIM)
    assert loaded.config.groups == GROUPS and loaded.config.rows == ROWS and loaded.config.delay == 0.22
    content = torch.load(file, weights_only=True)
    flat = {f"w_proj_model.{k}": v for k, v in content["w_proj"].items()}
    flat |= {f"adapter_modules.{k}": v for k, v in content["wplus_adapter"].items()}
    torch.save(flat, tmp_path / "pytorch_model.bin")
    file.rename(tmp_path / "wplus_adapter_stage1.bin")
    trained, _ = read_published(tmp_path / "pytorch_model.bin", layers=layers, dim=DIM)
    assert torch.equal(trained.norm.weight, adapter.mapper.norm.weight)
    stage_1: Any = type(adapter).from_published(tmp_path / "wplus_adapter_stage1.bin", layers=layers, dim=DIM)
    assert stage_1.config.delay == 0.0


def test_a_file_that_does_not_fit_names_its_keys(adapter: Any, tmp_path: Path) -> None:
    file = tmp_path / "wplus_adapter.bin"
    write_published(adapter.mapper, adapter.cross_attention, file)
    good = torch.load(file, weights_only=True)
    layers = adapter.cross_attention.layers
    attention, mapper = good["wplus_adapter"], good["w_proj"]
    broken = {
        "1.to_q_wplus": {"w_proj": mapper, "wplus_adapter": dict(list(attention.items())[3:])},
        "bogus": {"w_proj": mapper, "wplus_adapter": attention | {"bogus": torch.ones(1, 1)}},
        "proj_0": {"w_proj": {"proj_0.weight": torch.ones(4, 5)}, "wplus_adapter": attention},
        "wplus_adapter": {"w_proj": mapper},
        "w_proj": {"other": torch.ones(1)},
    }
    for told, content in broken.items():
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=told):
            read_published(file, layers=layers, dim=DIM)
    with pytest.raises(CheckpointError, match="holds no W"):
        (tmp_path / "empty").mkdir()
        read_published(tmp_path / "empty")
    torch.save(good, file)
    with pytest.raises(CheckpointError, match=r"\d+\.to_"):
        read_published(file, dim=DIM)  # of a base with other layers


def test_codes_of_another_size_and_other_encoders_are_refused(pipe: Any, adapter: Any) -> None:
    state = dict(pipe.unet.attn_processors)
    for wrong, told in (
        (person(1, rows=ROWS - 1), f"takes {ROWS} for each photo"),
        (person(1, dim=8), "length 8"),
        (Identity("face", {"dlib": Feature("dlib", np.ones((1, 128), np.float32))}), "needs 'e4e'"),
    ):
        with pytest.raises(Exception, match=told), adapter.attach(pipe, wrong):
            pytest.fail("the scope was entered")
    with pytest.raises(BadInput, match="holds no pose"), adapter.attach(pipe, person(1), pose="x.png"):
        pytest.fail("the scope was entered")
    assert pipe.unet.attn_processors == state


def test_the_delay_counts_in_steps(pipe: Any, adapter: Any) -> None:
    """0.22 of 30 steps are the 7 that the published code waits for."""

    def trace(**options: Any) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
            seen.append(values["latents"].clone())
            return values

        call = {"num_inference_steps": 30, "height": 16, "width": 16, "output_type": "latent"}
        generator = torch.Generator().manual_seed(3)
        if options:
            with adapter.attach(pipe, person(1), **options):
                pipe("a man", generator=generator, callback_on_step_end=keep, **call)
        else:
            pipe("a man", generator=generator, callback_on_step_end=keep, **call)
        return seen

    plain = trace()
    same = [torch.equal(a, b) for a, b in zip(plain, trace(delay=0.22), strict=True)]
    assert same == [True] * 7 + [False] * 23
    same = [torch.equal(a, b) for a, b in zip(plain, trace(delay=0.22, start=0.5), strict=True)]
    assert same == [True] * 15 + [False] * 15


def test_sliders(adapter: Any) -> None:
    me = person(1)
    step = adapter.directions()["smile"]
    assert isinstance(step, Step)
    moved = adapter.edit(me, smile=2.0, age=-1.0)
    expected = me.features["e4e"].values + 2 * step.delta - adapter.directions()["age"].delta
    assert np.allclose(moved.features["e4e"].values, expected, atol=1e-5)
    assert moved.features["e4e"].tokens == ROWS and np.array_equal(
        me.features["e4e"].values, person(1).features["e4e"].values
    )
    several = Identity.merge([me, person(2)], how="concat")
    both = adapter.edit(several, smile=1.0).features["e4e"].values
    assert np.allclose(both[ROWS:] - person(2).features["e4e"].values, step.delta, atol=1e-5)
    with pytest.raises(UnknownName, match="smile"):
        adapter.edit(me, smyle=1.0)


def test_an_edit_by_option_equals_an_edited_identity(pipe: Any, adapter: Any) -> None:
    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
        return pipe("a man", generator=generator, **call).images

    with adapter.attach(pipe, person(1), edit="smile=2,age=-1"):
        by_option = draw()
    with adapter.attach(pipe, adapter.edit(person(1), smile=2, age=-1)):
        assert torch.equal(draw(), by_option)
    with adapter.attach(pipe, person(1)):
        assert not torch.allclose(draw(), by_option, atol=1e-3)


@pytest.mark.parametrize("text", ["", "smile", "smile=", "smile=x", "=1", "smile=1,smile=2", "smile=nan"])
def test_senseless_edits(text: str) -> None:
    with pytest.raises(BadInput, match="NAME=AMOUNT"):
        parse_edits(text)


def test_direction_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((1, DIM)).astype(np.float32)
    torch.save(torch.tensor(unit), tmp_path / "age.pt")
    rows = rng.standard_normal((ROWS + 4, DIM))
    np.save(tmp_path / "smile.npy", rows)
    found = read_directions(tmp_path, ROWS + 4, DIM)
    codes = rng.standard_normal((ROWS + 4, DIM)).astype(np.float32)
    assert np.allclose(found["age"].apply(codes, 2.0) - codes, 2 * unit, atol=1e-5)
    moved = found["smile"].apply(codes, 1.0) - codes
    assert np.allclose(moved[:8], rows[:8], atol=1e-5) and not moved[8:].any()
    with pytest.raises(BadInput, match="another W"):
        found["age"].apply(codes[:, :5], 1.0)
    np.save(tmp_path / "wide.npy", rng.standard_normal((ROWS, DIM + 1)))
    with pytest.raises(BadInput, match=f"wide.*{DIM + 1}"):
        read_direction(tmp_path / "wide.npy", ROWS, DIM)
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="broken"):
        read_direction(tmp_path / "broken.pt", ROWS, DIM)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="objects"):
        read_direction(tmp_path / "objects.npy", ROWS, DIM)
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="no directions"):
        read_directions(tmp_path / "none", ROWS, DIM)


def test_a_principal_component_sets_its_coordinate() -> None:
    rng = np.random.default_rng(0)
    axis = np.zeros(DIM, np.float32)
    axis[3] = 1.0
    component = Component(rng.standard_normal(DIM).astype(np.float32), axis, 2.0, 1, 4)
    codes = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    moved = component.apply(codes, 5.0)
    change = moved - codes
    now = (codes[0] - component.mean)[3] / 2.0
    assert np.allclose(change[1:4, 3], (5.0 - now) * 2.0, atol=1e-4)
    assert not change[[0, *range(4, ROWS)]].any() and not np.delete(change, 3, axis=1).any()
    with pytest.raises(BadInput, match="another W"):
        component.apply(codes[:2], 1.0)


def test_the_published_directions(pipe: Any) -> None:
    folder = SHARED / "weights" / "wplus" / "w_direction"
    if not folder.is_dir():
        pytest.skip(f"development data is not at {folder}")
    found = read_directions(folder, 18, 512)
    assert {"age", "smile", "glasses", "gender", "frizzy_hair", "big_smile"} <= set(found)
    assert sum(isinstance(direction, Component) for direction in found.values()) > 30
    code = torch.load(SHARED / "weights" / "wplus" / "test_data" / "e4e" / "1.pth", "cpu", weights_only=True)
    codes = code.detach().float().numpy()[0]
    for direction in found.values():
        moved = direction.apply(codes, 1.0)
        assert moved.shape == (18, 512) and np.isfinite(moved).all() and not np.array_equal(moved, codes)
    with pytest.raises(BadInput, match=r"\[8, 64\]"):
        read_directions(folder, 8, 64)


def test_saved_with_its_directions(adapter: Any, tmp_path: Path) -> None:
    adapter.save_pretrained(tmp_path)
    loaded: Any = load_adapter(tmp_path)
    assert np.array_equal(loaded.directions()["smile"].delta, adapter.directions()["smile"].delta)
    adapter.own_directions = None
    adapter.save_pretrained(tmp_path)
    assert load_adapter(tmp_path).directions() == {}  # type: ignore[attr-defined]
