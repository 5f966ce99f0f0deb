"""``idpersona export``: the tiny InstantID in the layout of others, and what is refused."""

from __future__ import annotations

import json
import shutil
from importlib import resources

import pytest
import torch
from safetensors.torch import load_file

from idpersona.adapters import load_adapter
from idpersona.adapters.loading import load_as_stored
from idpersona.registry import locate


def test_an_export_is_read_back(run, tiny, tmp_path):
    """Its tensors are those of the folder, and what the layout cannot say is told on stderr and in JSON."""
    outcome = run("export", tiny / "adapter", "-o", tmp_path / "out", "--json").done()
    told = json.loads(outcome.out)
    assert told["folder"] == str(tmp_path / "out") and told["method"] == "instantid"
    assert sorted(told["files"]) == sorted(
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    )
    assert told["fields"] == {
        "encoder": "dlib",
        "kps_radius": 3,
        "kps_stick_width": 1,
        "resize_max_side": 64,
        "resize_min_side": 64,
        "resize_multiple": 16,
    }
    assert "heads are 16 wide" in told["notes"][0] and told["notes"][0] in outcome.err
    assert "encoder='dlib'" in outcome.err
    ours = load_adapter(tiny / "adapter")
    again = load_adapter(tmp_path / "out", base=tiny / "base", **told["fields"])
    assert again.config_dict() == ours.config_dict()
    for name, part in ours.parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(again.parts[name].state_dict()[key], value)


def test_another_number_type(run, tiny, tmp_path):
    """Weights keep the type that they are stored in, unless another one is asked for."""
    half = tmp_path / "half"
    line = run("export", tiny / "adapter", "-o", half, "--dtype", "fp16").done().out
    assert line == (
        f"wrote {half}: instantid, ControlNetModel/config.json, "
        "ControlNetModel/diffusion_pytorch_model.safetensors, ip-adapter.bin\n"
    )
    content = torch.load(half / "ip-adapter.bin", weights_only=True)
    assert {v.dtype for part in ("image_proj", "ip_adapter") for v in content[part].values()} == {
        torch.float16
    }
    net = load_file(half / "ControlNetModel" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in net.values()} == {torch.float16}
    run("export", locate("wplus-mini"), "-o", tmp_path / "wplus").done()
    stored = load_as_stored(tmp_path / "wplus", "mini", dim=64)
    assert {part.dtype for part in stored.parts.values()} == {torch.float16}


def test_from_one_published_layout_into_another(run, tiny, tmp_path):
    """A checkpoint of InstantID's public training code, whose file and folder have other names."""
    run("export", tiny / "adapter", "-o", tmp_path / "out").done()
    trained = tmp_path / "trained"
    trained.mkdir()
    shutil.copy(tmp_path / "out" / "ip-adapter.bin", trained / "pytorch_model.bin")
    shutil.copytree(tmp_path / "out" / "ControlNetModel", trained / "controlnet")
    run("export", trained, "--base", tiny / "base", "-o", tmp_path / "again").done()
    before, after = (load_as_stored(tmp_path / name, str(tiny / "base")).parts for name in ("out", "again"))
    assert set(before) == set(after) == {"projector", "cross_attention", "identitynet"}
    for name, part in before.items():
        for key, value in part.state_dict().items():
            assert torch.equal(after[name].state_dict()[key], value)


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ("./no/such/folder", "there is no folder and no file"),
        ("instantidd", "did you mean instantid"),
        ("infinite-id", "no layout of infinite-id has been published"),
        ("anymaker", "no layout of anymaker has been published"),
        ("decor", "has no weights"),
        (resources.files("idpersona.assets") / "lora-eyeglasses", "load_lora_weights"),
    ],
)
def test_what_cannot_be_exported(run, tmp_path, adapter, says):
    run("export", adapter, "-o", tmp_path / "out").refused(says)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(run, tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    run("export", tiny / "adapter", "-o", out).refused("not empty", "--force")
    run("export", tiny / "adapter", "-o", out, "--force").refused("mine.txt")
    run("export", tiny / "adapter", "-o", out / "mine.txt").refused("is a file")
    run("export", tiny / "adapter", "-o", tmp_path / "new", "--dtype", "int8").refused("dtype")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    (out / "mine.txt").unlink()
    run("export", tiny / "adapter", "-o", out).done()
    run("export", tiny / "adapter", "-o", out, "--force").done()
    assert {path.name for path in out.iterdir()} == {"ip-adapter.bin", "ControlNetModel"}
