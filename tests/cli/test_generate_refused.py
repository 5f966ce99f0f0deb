"""What ``idpersona generate`` refuses: one line, status 2, nothing written, no model loaded for it."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from idpersona.provenance import read_settings


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "0"], "--steps"),
        (["--steps", "1001"], "--steps"),
        (["--steps", "2.5"], "steps"),
        (["--scale", "nan"], "--scale"),
        (["--scale", "-0.1"], "--scale"),
        (["--scale", "2.01"], "--scale"),
        (["--scale", "inf"], "--scale"),
        (["--guidance", "51"], "--guidance"),
        (["--guidance", "-1"], "--guidance"),
        (["--guidance", "inf"], "--guidance"),
        (["--guidance", "nan"], "--guidance"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "--seed"),
        (["--seed", "1e3"], "seed"),
        (["--size", "65x64"], "multiples of 8"),
        (["--size", "0x64"], "multiples of 8"),
        (["--size", "8192x64"], "multiples of 8"),
        (["--size", "64"], "WIDTHxHEIGHT"),
        (["--size", "-64x64"], "--size"),
        (["-n", "0"], "-n"),
        (["-n", "101"], "-n"),
        (["--dtype", "fp8"], "dtype"),
        (["--device", "warp"], "device"),
        (["--adapter", "instantid:much"], "no number"),
        (["--adapter", "instantid:3"], "between 0 and 2"),
        (["--set", "net_end"], "NAME=NUMBER"),
        (["--set", "net_end=late"], "net_end of instantid is a number"),
        (["--set", "net_end=nan"], "NAME=NUMBER"),
        (["--set", ".net_end=1"], "NAME=NUMBER"),
        (["--set", "scale=1"], "use --scale"),
        (["--set", "self=1"], "no option"),
        (["--set", "net_end=0.5", "net_end=0.6"], "given twice"),
        (["--set", "decor.net_end=1"], "the adapters here are"),
        (["--lora", "absent.safetensors"], "no such LoRA"),
        (["--lora", "weights.pt"], ".safetensors"),
        (["--pose", "absent.jpg"], "no such photo"),
        (["--consent"], "--consent"),
        (["--face", "1"], "--face"),
        (["--bogus"], "--bogus"),
        (["--base", ""], "--base is empty"),
        (["--adapter", ""], "--adapter is empty"),
        (["--photo", " "], "--photo is empty"),
        (["--device", ""], "--device is empty"),
        (["--device", "meta"], "--device"),
        (["--base", "b" * 300], "too long"),
        (["--adapter", "b" * 300], "too long"),
        (["--lora", f"{'b' * 300}.safetensors"], "too long"),
        (["--from", f"{'b' * 300}.png"], "too long"),
        (["--prompt", "a\x1b[31m"], "control characters"),
        (["--prompt", "x" * 30_000], "30000"),
    ],
)
def test_arguments(draw, tmp_path, words, says):
    draw(*words, "-o", tmp_path / "a.png").refused(says)
    assert list(tmp_path.iterdir()) == []


def test_names_offer_the_nearest(run, draw, me, tmp_path):
    fixed = ["generate", "--identity", me, "--prompt", "x", "-o", tmp_path / "a.png"]
    run(*fixed, "--adapter", "instanid").refused("did you mean instantid")
    run(*fixed, "--base", "mimi").refused("mini")
    run(*fixed, "--base", tmp_path / "absent").refused("absent")
    run(*fixed, "--base", "sd15").refused("instantid")
    run(*fixed, "--photo", "sample:astronut").refused("one of --identity, --photo")
    draw("--photo", "sample:astronut", "-o", tmp_path / "a.png", identity=False).refused("astronaut")


def test_missing_words(run, me, tmp_path):
    out = tmp_path / "a.png"
    run("generate", "--identity", me, "--prompt", "x").refused("--output")
    run("generate", "--identity", me, "-o", out).refused("--prompt")
    run("generate", "--prompt", "x", "-o", out).refused("--identity")
    run("generate", "--from", tmp_path / "absent.png", "-o", out).refused("absent.png")


def test_outputs(draw, tmp_path):
    draw("-o", tmp_path / "a.jpg").refused(".png")
    draw("-o", tmp_path / "gone" / "a.png").refused("does not exist")
    draw("-o", tmp_path).refused(".png")
    (tmp_path / "a-1.png").write_bytes(b"mine")
    draw("-n", 2, "-o", tmp_path / "a.png").refused("a-1.png", "--force")
    assert [path.name for path in tmp_path.iterdir()] == ["a-1.png"]
    assert (tmp_path / "a-1.png").read_bytes() == b"mine"


def test_a_folder_that_may_not_be_written_to(draw, run, tmp_path, monkeypatch):
    monkeypatch.setattr("idpersona.images.os.access", lambda *_: False)  # root may write anywhere
    draw("-o", tmp_path / "a.png").refused("not writable")
    run("identify", "sample:astronaut", "-o", tmp_path / "a.safetensors").refused("not writable")


def test_force_overwrites(draw, tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    draw("--force", "-o", tmp_path / "a.png").done()
    assert read_settings(tmp_path / "a.png")["prompt"]


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "newer", "encoder", "absent"])
def test_identity_files(draw, me, tmp_path, damage):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    bad = tmp_path / "bad.safetensors"
    data = me.read_bytes()
    if damage == "cut":
        bad.write_bytes(data[:-9])
    if damage == "text":
        bad.write_text("I am no identity")
    if damage == "empty":
        bad.write_bytes(b"")
    if damage == "newer":
        with safe_open(me, framework="numpy") as file:
            metadata = dict(file.metadata())
        newer = {
            key: value.replace("1", "999") if "version" in key else value for key, value in metadata.items()
        }
        assert newer != metadata, metadata
        save_file(load_file(me), bad, newer)
    if damage == "encoder":
        from idpersona.identity import Feature, Identity

        Identity("face", {"antelopev2": Feature("antelopev2", np.ones((1, 512), np.float32))}).save(bad)
    out = draw("--identity", bad, "-o", tmp_path / "a.png", identity=False)
    out.refused(*(["dlib", "antelopev2"] if damage == "encoder" else ["bad.safetensors"]))
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen", "no config", "not json"])
def test_adapter_checkpoints(draw, run, tiny, me, tmp_path, change):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    shutil.copytree(tiny / "adapter", folder)
    weights = next((folder / "projector").glob("*.safetensors"))
    tensors = load_file(weights)
    if change == "missing":
        del tensors["latents"]
    if change == "extra":
        tensors["surplus.weight"] = tensors["latents"].clone()
    if change == "misshapen":
        tensors["latents"] = tensors["latents"][:, :1].clone()
    save_file(tensors, weights)
    if change == "no config":
        (folder / "adapter.json").write_text("{}")
    if change == "not json":
        (folder / "adapter.json").write_text("{")
    words = ["generate", "--base", tiny / "base", "--adapter", folder, "--identity", me, "--prompt", "x"]
    named = {"missing": "latents", "extra": "surplus.weight", "misshapen": "latents"}.get(
        change, "adapter.json"
    )
    run(*words, "--steps", 1, "-o", tmp_path / "a.png").refused(named)
    assert not (tmp_path / "a.png").exists()


def test_of_many_wrong_adapter_keys_three_are_named(run, tiny, me, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny / "adapter", tmp_path / "adapter")
    weights = next((folder / "identitynet").glob("*.safetensors"))
    tensors = load_file(weights)
    for key in sorted(tensors)[:5]:
        del tensors[key]
    save_file(tensors, weights)
    words = ["generate", "--base", tiny / "base", "--adapter", folder, "--identity", me, "--prompt", "x"]
    out = run(*words, "--steps", 1, "-o", tmp_path / "a.png").refused("missing: ", "and 2 more")
    assert out.err.count("conv_in") <= 3


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_base_with_other_keys(run, tiny, me, tmp_path, part, change):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    shutil.copytree(tiny / "base", folder)
    weights = next((folder / part).glob("*.safetensors"))
    tensors = load_file(weights)
    touched = sorted(key for key, value in tensors.items() if value.ndim > 1)[:4]
    for key in touched:
        if change == "missing":
            del tensors[key]
        if change == "extra":
            tensors[f"surplus.{key}"] = tensors[key].clone()
        if change == "misshapen":
            tensors[key] = tensors[key][:1].clone()
    save_file(tensors, weights, {"format": "pt"})
    words = ["generate", "--base", folder, "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x"]
    out = run(*words, "--steps", 1, "-o", tmp_path / "a.png")
    label = {"extra": "unexpected"}.get(change, change)
    out.refused(f"{folder / part} does not fit: {label}:", "and 1 more")
    assert sum(key in out.err for key in touched) == 3
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("damage", ["cut", "empty folder", "not a base"])
def test_base_checkpoints(run, tiny, me, tmp_path, damage):
    folder = tmp_path / "base"
    shutil.copytree(tiny / "base", folder)
    if damage == "cut":
        weights = next((folder / "unet").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:1000])
    if damage == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    if damage == "not a base":
        (folder / "model_index.json").write_text("[]")
    words = ["generate", "--base", folder, "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x"]
    run(*words, "--steps", 1, "-o", tmp_path / "a.png").refused("base")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "many"},
        {"steps": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"width": 63},
        {"adapters": [{"name": 1, "scale": 1}]},
        {"adapters": [{"name": "instantid", "scale": None}]},
        {"adapters": []},
        {"adapters": [{"name": "instantid", "scale": 1, "options": {"pose": 1.0}}]},
        {"adapters": [{"name": "instantid", "scale": 1, "options": {"self": 1.0}}]},
        {"adapters": [{"name": "instantid", "scale": 1, "options": {"net_end": "late"}}]},
        {"adapters": [{"name": "instantid", "scale": 1, "options": {"net_end": math.nan}}]},
        {"adapters": [{"name": "instantid", "scale": 1, "options": [1]}]},
        {"identity": {}},
        {"identity": {"from": "file", "sources": []}},
        {"identity": {"from": "file", "sources": [{"path": "/etc/passwd", "typed": "x", "sha256": "0"}]}},
        {"base": None},
        {"prompt": 5},
        {"guidance": 10**400},
        {"folders": []},
        {"weights": [1]},
    ],
)
def test_settings_of_pictures_are_checked_like_options(drawn, run, tmp_path, change):
    settings = read_settings(drawn) | change
    info = PngInfo()
    info.add_itxt("parameters", json.dumps(settings))
    Image.new("RGB", (8, 8)).save(tmp_path / "edited.png", pnginfo=info)
    run("generate", "--from", tmp_path / "edited.png", "-o", tmp_path / "b.png").refused()
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_path_that_cannot_be_recorded_is_refused_before_drawing(draw, me, tmp_path, monkeypatch, where):
    odd = os.fsdecode(b"caf\xe9")
    place = tmp_path / (odd if where == "folder" else "plain")
    place.mkdir()
    name = f"{odd}.safetensors" if where == "file" else "me.safetensors"
    shutil.copy(me, place / name)
    monkeypatch.chdir(place)  # what is typed is sound when the folder is not
    draw("--identity", name, "-o", tmp_path / "a.png", identity=False).refused("rename")
    assert not (tmp_path / "a.png").exists()


def test_names_with_unusual_letters_are_recorded(draw, run, me, tmp_path):
    # macOS puts U+202F into the names of screenshots.
    name = tmp_path / "Screenshot 9.41\u202fAM \U0001f469\u200d\U0001f680.safetensors"
    shutil.copy(me, name)
    draw("--identity", name, "--steps", 1, "-o", tmp_path / "a.png", identity=False).done()
    run("generate", "--from", tmp_path / "a.png", "-o", tmp_path / "b.png").done()


def test_a_recorded_weight_that_is_no_number_is_refused(drawn, run, tmp_path):
    settings = read_settings(drawn)
    source = settings["identity"]["sources"][0]
    info = PngInfo()
    info.add_itxt("parameters", json.dumps(settings | {"lora": [{**source, "weight": float("nan")}]}))
    Image.new("RGB", (8, 8)).save(drawn.parent / "edited.png", pnginfo=info)
    run("generate", "--from", drawn.parent / "edited.png", "-o", tmp_path / "b.png").refused("nan")


def test_consent_and_licences(draw, run, tiny, tmp_path, me):
    draw("--require-consent", "-o", tmp_path / "a.png").refused("consent")
    from idpersona import Identity

    agreed = Identity.load(me).with_consent().save(tmp_path / "agreed.safetensors")
    draw("--identity", agreed, "--require-consent", "-o", tmp_path / "a.png", identity=False).done()
    assert read_settings(tmp_path / "a.png")["identity"]["consent"] is True
    draw("--commercial", "-o", tmp_path / "b.png").refused("--commercial", "licence")
    words = ["generate", "--identity", me, "--prompt", "x", "--commercial", "-o", tmp_path / "b.png"]
    assert run(*words, "--base", "mini").status == 2
    assert not (tmp_path / "b.png").exists()
