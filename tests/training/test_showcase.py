"""The pictures that the repository shows: made by the embedded model, marked, and only with a sure face."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.errors import BadInput, UnknownName
from idpersona.images import open_photo
from idpersona.provenance import is_marked, read_settings
from idpersona.training import showcase


def test_it_draws_with_the_embedded_weights_and_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(showcase, "PEOPLE", showcase.PEOPLE[:1])
    monkeypatch.setattr(showcase, "PROMPTS", showcase.PROMPTS[:2])
    monkeypatch.setattr(showcase, "OVERVIEW", showcase.OVERVIEW[:1])
    written = showcase.showcase(tmp_path, 1, ("people", "prompts", "overview"))
    names = [path.relative_to(tmp_path).as_posix() for path in written]
    assert names == ["samples/person-1.png", "pictures/prompts.png", "pictures/overview.png"]
    assert all(is_marked(path) for path in written)
    person = read_settings(written[0])
    assert person["prompt"] == showcase.PEOPLE[0] and person["seed"] >= 1
    assert person["num_inference_steps"] == 25
    assert Image.open(written[0]).size == (128, 128)
    assert Image.open(written[2]).size == (2 * 160, 160 + 14)


def test_methods_and_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(showcase, "OVERVIEW", showcase.OVERVIEW[:1])
    monkeypatch.setattr(showcase, "PAIRS", showcase.PAIRS[:1])
    written = showcase.showcase(tmp_path, 1, ("infinite-id", "pairs"))
    assert [path.name for path in written] == ["infinite-id.png", "pairs.png"]
    assert read_settings(written[0])["adapter"] == "infinite-id"
    assert Image.open(written[1]).size == (256, 128)
    with pytest.raises(UnknownName, match="did you mean pairs"):
        showcase.showcase(tmp_path, 1, ("pair",))


def test_the_lora_leaks_in_its_strength_and_sliders_move(tmp_path, monkeypatch):
    """Rows of the sheets differ from each other: what they show is really applied."""
    monkeypatch.setattr(showcase, "LEAKING", showcase.LEAKING[:1])
    monkeypatch.setattr(showcase, "SLIDERS", showcase.SLIDERS[:1])
    monkeypatch.setattr(showcase, "AMOUNTS", (0.0, 2.0))
    decor, sliders = showcase.showcase(tmp_path, 1, ("decor", "sliders"))
    assert read_settings(decor)["lora"] == "lora-eyeglasses:2"
    assert read_settings(sliders)["directions"] == ["smile"]
    sheet = np.asarray(Image.open(decor))[-4 * 128 :, -128:]
    drawn = [sheet[n * 128 : (n + 1) * 128] for n in range(4)]
    assert all((one != other).any() for one, other in itertools.combinations(drawn, 2))
    pair = np.asarray(Image.open(sliders))[-128:, -256:]
    assert (pair[:, :128] != pair[:, 128:]).any()


def test_edits_are_shown_beside_their_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(showcase, "EDITED", showcase.EDITED[1:2])
    monkeypatch.setattr(showcase, "TURNED", {"Smiling": "smile"})
    (edits,) = showcase.showcase(tmp_path, 1, ("edits",))
    assert read_settings(edits)["attributes"] == ["Smiling"] and is_marked(edits)
    sheet = np.asarray(Image.open(edits))[-96:]
    assert (sheet[:, :96] != sheet[:, 96:192]).any()


def test_a_person_without_a_sure_face_is_not_shown():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    face = open_photo("sample:astronaut").crop((130, 20, 330, 220))
    pictures = {3: face}
    found = showcase._first_with_a_face(lambda _, seed: [pictures.get(seed, noise)], "x", 1)
    assert found == (face, 3)
    with pytest.raises(BadInput, match="no sure face"):
        showcase._first_with_a_face(lambda *_: [noise], "x", 1)


def test_every_picture_in_the_repository_is_marked():
    assets = Path(showcase.__file__).resolve().parents[1] / "assets"
    pictures = {path.relative_to(assets).as_posix(): path for path in assets.rglob("*.png")}
    people = {f"samples/person-{number}.png" for number in range(1, len(showcase.PEOPLE) + 1)}
    others = {f"pictures/{name}.png" for name in showcase.SHOWN if name != "people"}
    assert people <= set(pictures) <= people | others
    assert all(is_marked(path) for path in pictures.values())
