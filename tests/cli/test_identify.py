"""``idpersona identify`` and ``idpersona compare``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from idpersona import Identity
from idpersona.images import open_photo


@pytest.fixture(scope="module")
def face() -> Image.Image:
    return open_photo("sample:astronaut").crop((130, 20, 330, 220))


def test_writes_an_identity(run, tmp_path, face):
    face.save(tmp_path / "a.png")
    out = run("identify", tmp_path / "a.png", "--consent", "-o", tmp_path / "me.safetensors").done()
    identity = Identity.load(tmp_path / "me.safetensors")
    assert identity.consent
    assert identity.features["dlib"].values.shape == (1, 128)
    assert "me.safetensors" in out.out


def test_json_says_what_was_read(run, tmp_path, face):
    face.save(tmp_path / "a.png")
    face.rotate(4, Image.Resampling.BICUBIC).save(tmp_path / "b.png")
    words = ("--merge", "concat", "--json", "-o", tmp_path / "me.safetensors")
    data = json.loads(run("identify", tmp_path / "a.png", tmp_path / "b.png", *words).done().out)
    assert data["encoders"]["dlib"]["rows"] == 2
    assert data["photos"] == 2
    assert data["consent"] is False


def test_for_an_adapter_picks_its_encoder(run, tmp_path, face, tiny):
    face.save(tmp_path / "a.png")
    words = ["identify", tmp_path / "a.png", "-o", tmp_path / "me.safetensors"]
    run(*words, "--for", "instantid").done()
    assert set(Identity.load(tmp_path / "me.safetensors").features) == {"dlib"}
    run(*words, "--for", tiny / "adapter", "--force").done()
    run(*words, "--for", "instantid", "--base", "sdxl", "--force").refused("antelopev2", "models pull")
    run(*words, "--for", "instanid", "--force").refused("instantid")
    run(*words, "--for", "instantid", "--base", "mimi", "--force").refused("did you mean mini?")
    run(*words, "--for", "instantid", "--encoder", "dlib", "--force").refused("not both")


def test_largest_of_several_faces_is_taken_and_said(run, tmp_path, face):
    two = Image.new("RGB", (520, 260), (120, 120, 120))
    two.paste(face.resize((160, 160)), (20, 60))
    two.paste(face.resize((250, 250)), (260, 5))
    two.save(tmp_path / "two.png")
    out = run("identify", tmp_path / "two.png", "-o", tmp_path / "me.safetensors").done()
    assert any(
        line.startswith("note: ") and "2 faces" in line and "--face" in line for line in out.err.splitlines()
    )
    assert Identity.load(tmp_path / "me.safetensors").keypoints[:, 0].min() > 260  # type: ignore[index]
    run("identify", tmp_path / "two.png", "--face", 1, "-o", tmp_path / "small.safetensors").done()
    assert Identity.load(tmp_path / "small.safetensors").keypoints[:, 0].max() < 260  # type: ignore[index]
    run("identify", tmp_path / "two.png", "--face", 2, "-o", tmp_path / "x.safetensors").refused(
        "face 0", "face 1"
    )
    run("identify", tmp_path / "two.png", "--face", -1, "-o", tmp_path / "x.safetensors").refused("-1")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_a_damaged_tiff_prints_nothing_of_its_own(tmp_path, face, capfd, compression):
    path = tmp_path / "bad.tif"
    face.save(path, compression=compression)
    data = bytearray(path.read_bytes())
    data[500:900] = b"\xff" * 400
    path.write_bytes(data)
    from idpersona.cli.main import main

    assert main(["identify", str(path), "-o", str(tmp_path / "me.safetensors")]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_bad_photos_can_be_left_out(run, tmp_path, face):
    face.save(tmp_path / "a.png")
    words = ["identify", tmp_path / "a.png", tmp_path / "absent.png", "-o", tmp_path / "me.safetensors"]
    run(*words).refused("absent.png")
    out = run(*words, "--skip").done()
    assert "left out" in out.err
    assert len(Identity.load(tmp_path / "me.safetensors").sources) == 1


def test_reading_many_photos_shows_how_far_it_is(run, tmp_path, face):
    face.save(tmp_path / "a.png")
    out = run("identify", *[tmp_path / "a.png"] * 10, "-o", tmp_path / "me.safetensors").done()
    assert "reading photos: 10/10" in out.err
    few = run("identify", tmp_path / "a.png", "-o", tmp_path / "one.safetensors").done()
    assert "reading photos" not in few.err


def test_outputs_and_names(run, tmp_path, face):
    face.save(tmp_path / "a.png")
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    run("identify", tmp_path / "a.png", "-o", taken).refused("--force")
    assert taken.read_bytes() == b"mine"
    run("identify", tmp_path / "a.png", "-o", tmp_path / "x" / "me.safetensors").refused("does not exist")
    run("identify", tmp_path / "a.png", "-o", tmp_path / "me.pkl").refused(".safetensors")
    run("identify", tmp_path / "a.png", "--encoder", "dilb", "-o", tmp_path / "m.safetensors").refused("dlib")
    run("identify", tmp_path / "a.png", "--commercial", "-o", tmp_path / "m.safetensors").refused(
        "dlib", "commercial"
    )
    run("identify", "-o", tmp_path / "m.safetensors").refused("PHOTO")


def test_compare(run, tmp_path, face, me):
    face.save(tmp_path / "a.png")
    same = json.loads(run("compare", me, tmp_path / "a.png", "--json").done().out)
    assert set(same) == {"encoder", "measure", "similarity", "threshold", "same_person"}
    assert same["encoder"] == "dlib"
    assert same["same_person"] is True
    assert same["similarity"] > same["threshold"]
    assert "the same person" in run("compare", tmp_path / "a.png", tmp_path / "a.png").done().out
    run("compare", tmp_path / "absent.png", me).refused("absent.png")
    (tmp_path / "bad.safetensors").write_bytes(b"1234")
    run("compare", tmp_path / "bad.safetensors", me).refused("bad.safetensors")
    run("compare", me, me, "--encoder", "arcface").refused("arcface")
    run("compare", me, tmp_path / "a.png", "--encoder", "dilb").refused("did you mean dlib")
    from idpersona.identity import Feature

    features = {"antelopev2": Feature("antelopev2", np.ones((1, 512), np.float32))}
    Identity("face", features).save(tmp_path / "other.safetensors")
    run("compare", me, tmp_path / "other.safetensors").refused("dlib", "antelopev2")


def test_compare_tells_people_apart(run, tmp_path, me):
    from idpersona.identity import Feature

    values = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
    Identity("face", {"dlib": Feature("dlib", values)}).save(tmp_path / "other.safetensors")
    out = json.loads(run("compare", me, tmp_path / "other.safetensors", "--json").done().out)
    assert out["same_person"] is False
