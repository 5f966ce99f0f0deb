"""Several people in one picture, and objects, on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from idpersona import Identity
from idpersona.identity import Feature
from idpersona.provenance import read_settings


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def you(me, tmp_path):
    """A second person, with the same features as the first but for their values."""
    first = Identity.load(me)
    feature = first.features["dlib"]
    other = Feature("dlib", feature.values[:, ::-1].copy(), feature.weights_sha256, feature.preprocessing)
    path = tmp_path / "you.safetensors"
    Identity("face", {"dlib": other}, first.keypoints, first.image_size).save(path)
    return path


@pytest.fixture
def alone(draw):
    """``draw`` without an identity of its own."""
    return lambda *words: draw(*words, identity=False)


def test_two_people_side_by_side_and_again(alone, me, you, tmp_path):
    people = ("--person", f"{me}@0,0,32,64", f"{you}@32,0,32,64")
    alone(*people, "--seed", 3, "-o", tmp_path / "a.png").done()
    settings = read_settings(tmp_path / "a.png")
    assert settings["identity"]["from"] == "persons"
    assert settings["identity"]["regions"] == ["0,0,32,64", "32,0,32,64"]
    assert len(settings["identity"]["sources"]) == 2
    alone("--person", f"{you}@0,0,32,64", f"{me}@32,0,32,64", "--seed", 3, "-o", tmp_path / "b.png").done()
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    alone("--from", tmp_path / "a.png", "-o", tmp_path / "c.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "c.png"))


def test_a_region_can_be_a_mask(alone, me, you, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    Image.fromarray(255 - mask).save(tmp_path / "right.png")
    words = ("--seed", 3, "--steps", 1)
    masks = ("--person", f"{me}@{tmp_path / 'left.png'}", f"{you}@{tmp_path / 'right.png'}")
    alone(*masks, *words, "-o", tmp_path / "a.png").done()
    alone("--person", f"{me}@0,0,32,64", f"{you}@32,0,32,64", *words, "-o", tmp_path / "b.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    alone("--from", tmp_path / "a.png", "--steps", 1, "-o", tmp_path / "c.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "c.png"))


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ("0,0,32,640", "leaves the canvas of 64x64"),
        ("0,0,0,64", "is empty"),
        ("", "FILE@x,y,width,height"),
        ("nowhere.png", "no such photo"),
    ],
)
def test_regions_that_are_none_are_refused(alone, me, tmp_path, region, told):
    outcome = alone("--person", f"{me}@{region}", "-o", tmp_path / "a.png")
    assert outcome.status == 2 and told in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "a.png").exists()


def test_the_same_person_twice_is_known_by_its_features(alone, me, tmp_path):
    again = tmp_path / "again.safetensors"
    same = Identity.load(me)
    Identity("face", same.features, same.keypoints, same.image_size, consent=True).save(again)
    people = ("--person", f"{me}@0,0,32,64", f"{again}@32,0,32,64")
    alone(*people, "-o", tmp_path / "a.png").refused("same identity twice")


def test_people_that_contradict_each_other(alone, draw, me, tmp_path):
    out = ("-o", tmp_path / "a.png")
    alone("--person", f"{me}@0,0,32,64", f"{me}@32,0,32,64", *out).refused("same identity twice")
    draw("--person", f"{me}@0,0,32,64", *out).refused("one of --identity, --photo and --person")
    draw("--mask", "face", *out).refused("--mask is for --photo")


def test_a_face_file_is_refused_by_an_adapter_of_objects(run, me, tmp_path):
    from idpersona.testing import tiny_components
    from idpersona.testing.anymaker import tiny_anymaker

    tiny_anymaker(tiny_components("sd15")["unet"]).save_pretrained(tmp_path / "any")
    words = ("generate", "--identity", me, "--prompt", "a dog", "--adapter", tmp_path / "any")
    run(*words, "-o", tmp_path / "a.png").refused("is of a face", "--mask face")


def test_decor_alone_keeps_nobody(run, me, tmp_path):
    words = ("generate", "--identity", me, "--prompt", "a hat", "--adapter", "decor", "--set", "words=hat")
    run(*words, "-o", tmp_path / "a.png").refused("keeps no identity")


def test_decor_beside_an_adapter(draw, tmp_path):
    def drawn(name, *words):
        draw("--seed", 3, "--steps", 1, *words, "-o", tmp_path / name).done()
        return pixels(tmp_path / name)

    decor = ("--adapter", "decor:1", "--set", "decor.words=smiling")
    assert not np.array_equal(drawn("a.png"), drawn("b.png", *decor))
    settings = read_settings(tmp_path / "b.png")
    assert settings["adapters"][1]["options"] == {"words": "smiling"}
    draw("--adapter", "decor", "-o", tmp_path / "c.png").refused("what shall not be drawn")


def test_an_object_is_read_with_a_mask(run, tmp_path):
    """mini's own ViT reads the astronaut as an object, cut out by the face."""
    words = ("identify", "sample:astronaut", "--encoder", "mini-vit-object", "--subject", "object")
    run(*words, "--mask", "face", "--json", "-o", tmp_path / "o.safetensors").done()
    thing = Identity.load(tmp_path / "o.safetensors")
    assert thing.kind == "object" and thing.features["mini-vit-object"].tokens == 257
    run(*words, "--mask", "alpha", "-o", tmp_path / "p.safetensors").refused("no transparency")
    assert json.loads(run(*words, "--mask", "none", "--json", "-o", tmp_path / "q.safetensors").done().out)


def test_an_adapter_can_be_a_file(run, tmp_path, monkeypatch):
    """A published file with its base, also when the picture is repeated from another folder."""
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from idpersona.encoders import release_encoders
    from idpersona.testing import tiny_components
    from idpersona.testing.ip_adapter import IMAGE_DIM, published, tiny_ip_adapter

    pipe = StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False)
    pipe.save_pretrained(tmp_path / "base")
    torch.save(published(tiny_ip_adapter(pipe.unet), pipe.unet), tmp_path / "ip-adapter_tiny.bin")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    clip = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=IMAGE_DIM, **sizes)
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "weights" / "clip-h")
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path / "weights"))
    release_encoders()
    monkeypatch.chdir(tmp_path)
    words = ("generate", "--photo", "sample:astronaut", "--base", "./base", "--prompt", "a man", "--steps", 1)
    words += ("--device", "cpu")
    missing = run(*words, "--adapter", "./ip-adapter_other.bin", "-o", "a.png")
    missing.refused("no folder and no file ./ip-adapter_other.bin")
    run(*words, "--adapter", "./ip-adapter_tiny.bin", "--mask", "none", "-o", "a.png").done()
    monkeypatch.chdir(tmp_path.parent)
    again = tmp_path / "again.png"
    told = run("generate", "--from", tmp_path / "a.png", "-o", again).done()
    assert "not as when" not in told.err
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(again))
    release_encoders()
