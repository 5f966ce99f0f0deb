"""What an edit holds to its photo: strength, regions, detail; and words for a face."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image

from idpersona.encoders.describe import WORDS, describe, turn
from idpersona.errors import BadInput
from idpersona.pipelines import Control, Inversion, edit, invert
from idpersona.pipelines.editing.control import AttentionControl
from idpersona.pipelines.editing.detail import restore
from idpersona.pipelines.editing.region import latent_region, paste
from idpersona.pipelines.editing.retouch import retouch
from idpersona.pipelines.inversion.methods import get_method
from idpersona.pipelines.inversion.photos import fit_photo, fit_points
from idpersona.pipelines.inversion.record import InversionError
from idpersona.testing import tiny_components

STEPS, SIDE = 6, 32
RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pipe() -> Any:
    made: Any = StableDiffusionPipeline(**tiny_components("sd15"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def record(pipe: Any) -> Inversion:
    return invert(pipe, PHOTO, "a cat", steps=STEPS, size=(SIDE, SIDE))


def drawn(pipe: Any, record: Inversion, **options: Any) -> torch.Tensor:
    return edit(pipe, record, "a dog", output_type="latent", **options).images


def test_an_edit_of_no_strength_is_its_photo_and_of_some_departs_late(pipe: Any, record: Inversion) -> None:
    assert torch.equal(drawn(pipe, record, control=Control(strength=0.0)), record.latents[0])
    parted = []

    def on_step(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        one, other = values["latents"]
        parted.append(not torch.equal(one, other))
        return values

    drawn(pipe, record, control=Control(strength=0.5), on_step=on_step)
    assert parted == [False] * (STEPS // 2) + [True] * (STEPS // 2)


@pytest.mark.parametrize(
    ("strength", "steps", "held"), [(0.8, 25, 5), (0.9, 10, 1), (0.9, 50, 5), (0.65, 20, 7)]
)
def test_strength_counts_whole_steps(pipe: Any, strength: float, steps: int, held: int) -> None:
    controls = AttentionControl(pipe, Control(strength=strength), [("a cat", "a dog")])
    latents = torch.arange(2.0).view(2, 1, 1, 1)
    tied = [torch.equal(*controls.stepped(latents, step, steps)) for step in range(steps)]
    assert tied == [True] * held + [False] * (steps - held)


def test_an_edit_stays_in_its_region(pipe: Any, record: Inversion) -> None:
    factor = pipe.vae_scale_factor
    region = np.zeros((SIDE, SIDE), np.float32)
    region[:, : SIDE // 2] = 1
    found = drawn(pipe, record, region=region)
    half = SIDE // 2 // factor
    assert torch.equal(found[..., half:], record.latents[0][..., half:])
    assert not torch.allclose(found[..., :half], record.latents[0][..., :half])
    assert torch.equal(drawn(pipe, record, region=np.ones((SIDE, SIDE))), drawn(pipe, record))
    with pytest.raises(BadInput, match=f"{SIDE}x{SIDE} pixels"):
        drawn(pipe, record, region=np.ones((SIDE, SIDE + 1)))
    with pytest.raises(BadInput, match="from 0 to 1"):
        latent_region(np.full((SIDE, SIDE), 2.0), record.size, factor)


def test_what_guidance_leads_away_from(pipe: Any, record: Inversion) -> None:
    free = drawn(pipe, record, control=None)
    assert torch.equal(drawn(pipe, record, control=None, negative=""), free)
    assert not torch.allclose(drawn(pipe, record, control=None, negative=["a cat"]), free)
    assert not torch.allclose(drawn(pipe, record, control=None, guidance=2.0), free)
    with pytest.raises(BadInput, match="2 negative prompts for 1 inverted photos"):
        drawn(pipe, record, negative=["a", "b"])
    fixed = invert(pipe, PHOTO, "a cat", method="edict", steps=2, size=(SIDE, SIDE))
    with pytest.raises(BadInput, match=r"guidance of 7\.5, not 3"):
        drawn(pipe, fixed, guidance=3.0)


def test_a_photo_is_finished_as_a_user_wants_it(pipe: Any, record: Inversion) -> None:
    region = np.zeros((SIDE, SIDE), np.float32)
    region[:, : SIDE // 2] = 1
    (image,) = retouch(pipe, record, [PHOTO], "a dog", region=region, control=Control(strength=0.5))
    found, photo = np.asarray(image).astype(int), np.asarray(PHOTO).astype(int)
    assert np.array_equal(found[:, SIDE // 2 :], photo[:, SIDE // 2 :])
    assert not np.array_equal(found, photo)
    # Said or not, guidance leads away from what the photo shows.
    (plain,) = retouch(pipe, record, [PHOTO], "a dog", detail=False)
    same = edit(pipe, record, "a dog", negative="a cat").images[0]
    other = retouch(pipe, record, [PHOTO], "a dog", detail=False, negative="")[0]
    assert np.array_equal(plain, same) and not np.array_equal(plain, other)
    (held,) = retouch(pipe, record, PHOTO, "a dog", control=Control(strength=0.0))
    assert np.array_equal(held, PHOTO)
    with pytest.raises(BadInput, match="2 photos for an inversion of 1"):
        retouch(pipe, record, [PHOTO, PHOTO], "a dog")


def test_records_that_no_method_makes_are_refused(pipe: Any, record: Inversion) -> None:
    wrong: list[dict[str, Any]] = [
        {"method": "null-text"},
        {"method": "edict"},
        {"method": "ledits"},
        {"method": "nothing"},
        {"options": {"inner": 2}},
        {"method": "edict", "options": {"mixing": "x"}},
        {"scheduler": {**record.scheduler, "beta_schedule": "foo"}},
        {"latents": record.latents.repeat(1, 2, 1, 1, 1)},
    ]
    for changes in wrong:
        with pytest.raises(InversionError):
            edit(pipe, replace(record, **changes), "a dog")
    for changes in ({"prompts": ("a \x1b[31mcat",)}, {"guidance": float("nan")}):
        with pytest.raises(InversionError, match="control characters"):
            replace(record, **changes)


@pytest.mark.parametrize(
    ("method", "options", "taken"),
    [
        ("null-text", {"inner": 2.0, "stop": False}, {"inner": 2, "stop": False}),
        ("ledits", {"zero_noise": None, "skip": 0}, {"zero_noise": None, "skip": 0.0}),
        ("proximal", {"kind": "l1"}, {"kind": "l1"}),
        ("null-text", {"inner": 1.5}, "null-text.inner takes a whole number, got 1.5"),
        ("null-text", {"stop": "no"}, "null-text.stop takes true or false, got 'no'"),
        ("edict", {"mixing": "abc"}, "edict.mixing takes a number, got 'abc'"),
        ("proximal", {"kind": "l2"}, "proximal.kind takes 'l0' or 'l1', got 'l2'"),
        ("renoise", {"seed": True}, "renoise.seed takes a whole number, got True"),
    ],
)
def test_options_of_inversions_have_types(method: str, options: dict[str, Any], taken: Any) -> None:
    if isinstance(taken, str):
        with pytest.raises(BadInput, match=taken):
            get_method(method, **options)
        return
    found = get_method(method, **options)
    for name, value in taken.items():
        assert getattr(found, name) == value and type(getattr(found, name)) is type(value)


def test_pipelines_that_take_a_picture_are_refused(pipe: Any, record: Inversion) -> None:
    other = StableDiffusionImg2ImgPipeline(**pipe.components)
    for call in (lambda: invert(other, PHOTO, "a cat"), lambda: edit(other, record, "a dog")):
        with pytest.raises(BadInput, match="takes a picture of its own"):
            call()


def test_weights_that_are_not_in_memory_are_named() -> None:
    with torch.device("meta"):
        empty = StableDiffusionPipeline(**tiny_components("sd15"))
    with pytest.raises(BadInput, match="weights of unet are not in memory"):
        invert(empty, PHOTO, "a cat", size=(SIDE, SIDE))


def test_pasting_keeps_the_photo_outside_and_the_edit_well_inside() -> None:
    black, white = (Image.new("RGB", (100, 80), colour) for colour in ("black", "white"))
    region = np.zeros((80, 100))
    region[20:60, 20:80] = 1
    found = np.asarray(paste(black, white, region))
    assert (found[region == 0] == 0).all() and (found[30:50, 30:70] == 255).all()
    assert 0 < found[20:60, 20].mean() < 255
    with pytest.raises(BadInput, match="does not go into"):
        paste(black, white.resize((50, 40)), region)


def test_detail_comes_back_where_edit_and_source_agree() -> None:
    photo = Image.fromarray(RNG.integers(80, 180, (64, 64, 3), dtype=np.uint8))
    source = Image.new("RGB", photo.size, (130, 130, 130))
    pixels = np.full((64, 64, 3), 130, np.uint8)
    pixels[:, :20] = 250
    found = np.asarray(restore(photo, source, Image.fromarray(pixels)))
    assert np.array_equal(found[:, 30:], np.asarray(photo)[:, 30:])
    assert (found[:, :20] == 250).all()
    assert np.array_equal(np.asarray(restore(photo, source, source)), np.asarray(photo))
    with pytest.raises(BadInput, match="pixels"):
        restore(photo, source, source.resize((32, 32)))


def test_points_go_where_their_pixels_go() -> None:
    photo = Image.new("RGB", (300, 200))
    for x, y in ((120, 40), (180, 150)):
        photo.paste("white", (x - 3, y - 3, x + 4, y + 4))
        picture = np.asarray(fit_photo(photo, (100, 100))).astype(float)[..., 0]
        places = np.indices(picture.shape)[::-1]
        centre = (places * picture).sum(axis=(1, 2)) / picture.sum()
        assert np.allclose(fit_points(np.array([[x, y]]), (300, 200), (100, 100))[0], centre, atol=0.1)
        photo.paste("black", (0, 0, 300, 200))


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({}, "a photo of a person"),
        ({"Male": 0.9, "Young": 0.1, "Smiling": 0.8}, "a photo of a smiling old man"),
        ({"Male": 0.1, "Blond_Hair": 0.6, "Brown_Hair": 0.7}, "a photo of a woman with brown hair"),
        (
            {"Male": 0.9, "Bald": 0.9, "Black_Hair": 0.9, "No_Beard": 0.1, "Wearing_Hat": 0.9},
            "a photo of a bald man with a beard wearing a hat",
        ),
        (
            {"Male": 0.9, "Eyeglasses": 0.9, "Bangs": 0.9, "Goatee": 0.9, "No_Beard": 0.1, "Young": 0.2},
            "a photo of an old man with bangs, eyeglasses and a goatee",
        ),
    ],
)
def test_words_for_a_face(attributes: dict[str, float], text: str) -> None:
    assert describe(attributes) == text


def test_turning_an_attribute_turns_its_words() -> None:
    blond = {"Male": 0.1, "Blond_Hair": 0.9, "Young": 0.9}
    for name in (*WORDS, "Young"):
        there, wanted = turn(blond, name)
        assert wanted is (name not in ("Blond_Hair", "Young"))
        assert describe(there) != describe(blond)
    assert describe(turn(blond, "Blond_Hair")[0]) == "a photo of a young woman with black hair"
    assert describe(turn(turn(blond, "Eyeglasses")[0], "Eyeglasses")[0]) == describe(blond)


def test_words_are_those_that_mini_was_trained_with() -> None:
    from idpersona.training.data.captions import caption

    rng = np.random.default_rng(0)
    names = ("Male", "Young", "Smiling", "Bald", "Bangs", "Eyeglasses", "Goatee", "Mustache", "Wearing_Hat")
    names += ("Blond_Hair", "Black_Hair", "Brown_Hair", "Gray_Hair", "No_Beard")
    said: set[str] = set()
    for _ in range(3000):
        said |= set(caption({name: bool(rng.random() < 0.5) for name in names}, rng).replace(",", "").split())
    for name in names:
        for male in (0.0, 1.0):
            text = describe({name: 1.0, "Male": male})
            assert set(text.replace(",", "").split()) <= said, text


@pytest.mark.parametrize("method", ["direct", "null-text", "proximal", "renoise"])
def test_a_base_in_half_precision(method: str) -> None:
    """Records stay in float32; masks, weights and regions follow the base."""
    pipe: Any = StableDiffusionPipeline(**tiny_components("sd15")).to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    record = invert(pipe, PHOTO, "a cat", method=method, steps=2, size=(SIDE, SIDE))
    assert record.latents.dtype == torch.float32
    region = np.full((SIDE, SIDE), 0.5, np.float32)
    control = Control(reweight={"dog": 2.0}, blend=("cat", "dog"), threshold=0.1, blend_from=0.0)
    (image,) = retouch(pipe, record, PHOTO, "a dog", control=control, region=region)
    found = np.asarray(image)
    assert found.shape == (SIDE, SIDE, 3) and found.std() > 1
