"""``idpersona models``, against files in folders and a hub of our own on this machine."""

from __future__ import annotations

import json
import shutil

import pytest

from idpersona.registry import WEIGHTS, locate


def test_list(run):
    entries = json.loads(run("models", "list", "--json").done().out)
    assert {entry["name"] for entry in entries} == set(WEIGHTS)
    assert all(entry["licence"] and entry["source"] and entry["preprocessing"] for entry in entries)
    commercial = json.loads(run("models", "list", "--commercial", "--json").done().out)
    assert {entry["name"] for entry in commercial} == {n for n, w in WEIGHTS.items() if w.commercial}
    assert {"sd15", "sdxl", "clip-h"} <= {entry["name"] for entry in commercial}
    text = run("models", "list").done().out
    assert len(text.splitlines()) == len(WEIGHTS) + 1


def test_one(run):
    out = run("models", "list", "dlib").done().out
    assert "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f" in out
    assert "iBUG" in out
    run("models", "list", "dlibb").refused("did you mean dlib")
    run("models", "list", "dlib", "--commercial").refused("dlib")


def test_verify(run):
    report = json.loads(run("models", "verify", "dlib", "--json").done().out)
    assert [check["ok"] for check in report["dlib"]] == [True, True]
    run("models", "verify", "sdxl").refused("models pull sdxl")
    run("models", "verify", "antelopev2", "--commercial").refused("--commercial")


def test_pull(run):
    run("models", "pull").refused("sdxl")
    run("models", "pull", "mimi").refused("mini")
    run("models", "pull", "antelopev2", "--commercial").refused("antelopev2")
    assert "verified" in run("models", "pull", "dlib").done().out


@pytest.mark.parametrize("damage", ["one byte", "cut"])
def test_verify_sees_damage(run, tmp_path, monkeypatch, damage):
    """A pack put there by hand is checked against its pins; the file that differs is named."""
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    folder = tmp_path / "dlib-copy"
    shutil.copytree(locate("dlib"), folder)
    import dataclasses

    moved = dataclasses.replace(WEIGHTS["dlib"], name="dlib-copy", place="hub", source="nobody/dlib-copy")
    changed = {**WEIGHTS, "dlib-copy": moved}
    monkeypatch.setattr("idpersona.registry.WEIGHTS", changed)
    run("models", "verify", "dlib-copy").done()
    victim = folder / "dlib_face_recognition_resnet_model_v1.dat"
    data = bytearray(victim.read_bytes())
    data[1000] ^= 1
    victim.write_bytes(data if damage == "one byte" else data[:-1])
    outcome = run("models", "verify", "dlib-copy", "--json")
    assert outcome.status == 1
    report = json.loads(outcome.out)["dlib-copy"]
    assert {check["path"]: check["ok"] for check in report} == {
        victim.name: False,
        "shape_predictor_68_face_landmarks.dat": True,
    }
    # What cannot be checked beside it must not hide the damage.
    (tmp_path / "sdxl").mkdir()
    for file in WEIGHTS["sdxl"].files:
        (tmp_path / "sdxl" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "sdxl" / file).write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    both = run("models", "verify")
    assert both.status == 1 and "BROKEN" in both.out and "sdxl" in both.err
    run("models", "verify", "sdxl").refused("sdxl")
    run("models", "pull", "dlib-copy").refused(victim.name)
