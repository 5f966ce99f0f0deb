"""A denied person is refused as reference and as output; the registry on the command line."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from idpersona.images import open_photo


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


VARIANTS = {
    "same": lambda image: image,
    "mirrored": ImageOps.mirror,
    "jpeg40": lambda image: jpeg(image, 40),
    "smaller": lambda image: resized(image, 0.8),
    "larger": lambda image: resized(image, 1.2),
    "all": lambda image: jpeg(resized(ImageOps.mirror(image), 0.8), 40),
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    # The detector needs less time for a part of the picture.
    return open_photo("sample:astronaut").crop((130, 20, 330, 220))


@pytest.fixture
def denied(run, tmp_path, photo, monkeypatch):
    """A registry in which the astronaut is denied."""
    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "registry" / "people.safetensors"))
    photo.save(tmp_path / "known.png")
    return run("people", "add", "Eileen", tmp_path / "known.png", "--contact", "eileen@example.org").done()


def test_registry_commands(run, denied, tmp_path):
    assert "5 or more" in denied.err
    run("people", "add", "Eileen", tmp_path / "known.png").refused("--force")
    listed = json.loads(run("people", "list", "--json").done().out)
    assert listed["others"] == "allow"
    assert [(p["name"], p["policy"], p["photos"]) for p in listed["people"]] == [("Eileen", "deny", 1)]
    assert "Eileen" in run("people", "list").done().out
    run("people", "remove", "Aileen").refused("Eileen")
    run("people", "remove", "Eileen").done()
    run("people", "remove", "Eileen").refused("known: none")
    assert json.loads(run("people", "list", "--json").done().out)["people"] == []


def test_bad_entries_leave_the_registry_alone(run, denied, tmp_path):
    before = (tmp_path / "registry" / "people.safetensors").read_bytes()
    known = tmp_path / "known.png"
    run("people", "add", "Bo", tmp_path / "absent.png").refused("no such photo")
    run("people", "add", "Bo", known, "--expires", "tomorrow").refused("2030-12-31")
    run("people", "add", "Bo", known, "--encoder", "buffalo_l").refused("calibrated", "dlib")
    run("people", "add", "Bo", known, "--encoder", "dilb").refused("did you mean dlib")
    run("people", "add", "Bo", known, "--policy", "maybe").refused("maybe")
    run("people", "add", "", known).refused("name")
    assert (tmp_path / "registry" / "people.safetensors").read_bytes() == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_refused_as_reference(run, denied, photo, tmp_path, variant):
    changed = tmp_path / "changed.png"
    VARIANTS[variant](photo).save(changed)
    run("identify", changed, "-o", tmp_path / "x.safetensors").refused("Eileen", "deny", "eileen@example.org")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_refused_as_output(denied, photo, variant):
    from idpersona.errors import PersonRefused
    from idpersona.safety import check_picture, load_people

    picture = VARIANTS[variant](photo)
    with pytest.raises(PersonRefused, match="Eileen"):
        check_picture(picture, load_people())
    beside = Image.new("RGB", (picture.width + 200, picture.height), (90, 90, 90))
    beside.paste(picture, (200, 0))
    with pytest.raises(PersonRefused, match="Eileen"):
        check_picture(beside, load_people())


def test_pictures_without_the_person_pass(denied):
    from idpersona.safety import check_picture, load_people

    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert check_picture(Image.fromarray(noise), load_people()) == []


def test_generate_refuses_the_reference_in_every_form(run, draw, denied, me, photo, tmp_path):
    draw("-o", tmp_path / "a.png").refused("Eileen")
    draw("--photo", tmp_path / "known.png", "-o", tmp_path / "a.png", identity=False).refused("Eileen")
    # Also when averaging with other pictures would move the identity away from the person.
    ImageOps.mirror(photo).save(tmp_path / "two.png")
    words = ("--photo", tmp_path / "two.png", tmp_path / "known.png")
    draw(*words, "-o", tmp_path / "a.png", identity=False).refused("Eileen")
    assert not (tmp_path / "a.png").exists()


def test_generate_refuses_the_output(run, draw, denied, me, photo, tmp_path, monkeypatch):
    """The reference passes (another descriptor), but the base draws the denied person."""
    from idpersona import Identity
    from idpersona.identity import Feature

    feature = Feature("dlib", np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32))
    mine = Identity.load(me)
    someone = Identity("face", {"dlib": feature}, keypoints=mine.keypoints, image_size=mine.image_size)
    someone.save(tmp_path / "someone.safetensors")
    words = ("--identity", tmp_path / "someone.safetensors", "-o", tmp_path / "a.png")
    draw(*words, identity=False).done()
    (tmp_path / "a.png").unlink()
    # A tiny base draws noise; what it draws is replaced by the photo at the very last moment.
    from diffusers.image_processor import VaeImageProcessor

    monkeypatch.setattr(VaeImageProcessor, "postprocess", lambda *a, **k: [photo])
    refused = draw(*words, identity=False)
    assert refused.status == 2
    assert "Eileen" in refused.err.splitlines()[-1]
    assert not (tmp_path / "a.png").exists()


def test_a_registry_that_cannot_be_written_is_one_line(run, tmp_path, photo, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "file" / "people.safetensors"))
    run("people", "others", "deny").refused("file")


def test_a_damaged_registry_guards_by_refusing(run, draw, denied, me, tmp_path):
    file = tmp_path / "registry" / "people.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    draw("-o", tmp_path / "a.png").refused("people registry")
    run("identify", tmp_path / "known.png", "-o", tmp_path / "x.safetensors").refused("people registry")
    file.unlink()
    draw("-o", tmp_path / "a.png").refused("no people registry")


def test_only_allowed_people(run, draw, me, tmp_path, photo, monkeypatch):
    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "people.safetensors"))
    run("people", "others", "deny").done()
    draw("-o", tmp_path / "a.png").refused("allow list")
    photo.save(tmp_path / "known.png")
    run("people", "add", "Eileen", tmp_path / "known.png", "--policy", "allow").done()
    draw("-o", tmp_path / "a.png").done()
