"""Recipes: every committed one is valid, and a faulty one is refused in one clear line."""

from __future__ import annotations

import importlib

import pytest

from idpersona.errors import BadInput, UnknownName
from idpersona.training.config import builtin_recipes, load_recipe, parse
from idpersona.training.objectives import KINDS, build_objective
from idpersona.training.objectives.diffusion_config import DiffusionConfig
from idpersona.training.run import run_recipe

CONFIGS = {
    "autoencoder": ("autoencoder", "AutoencoderConfig"),
    "attributes": ("attributes", "AttributesConfig"),
    "identity-judge": ("judge", "JudgeConfig"),
    "latent-descriptor": ("latent_descriptor", "LatentDescriptorConfig"),
    "masked-autoencoder": ("masked_autoencoder", "MaskedAutoencoderConfig"),
    "style-autoencoder": ("style_autoencoder", "StyleAutoencoderConfig"),
    "diffusion": ("diffusion_config", "DiffusionConfig"),
    "infinite-id": ("infinite_id", "InfiniteIDTrainingConfig"),
    "instantid": ("instantid", "InstantIDTrainingConfig"),
    "wplus": ("wplus", "WPlusTrainingConfig"),
    "anymaker": ("anymaker", "AnyMakerTrainingConfig"),
    "lora": ("lora", "LoraConfig"),
    "persona": ("persona_config", "PersonaConfig"),
    "sliders": ("sliders", "SlidersConfig"),
    "id-aligner": ("id_aligner", "IdAlignerConfig"),
}


@pytest.mark.parametrize("path", builtin_recipes(), ids=lambda p: p.stem)
def test_committed_recipes_are_valid(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert set(CONFIGS) == set(KINDS)
    module, name = CONFIGS[recipe.objective["kind"]]
    config = getattr(importlib.import_module(f"idpersona.training.objectives.{module}"), name)
    assert parse(config, recipe.objective, recipe.name).kind == recipe.objective["kind"]


def write(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


GOOD = "name: x\nobjective: {kind: autoencoder}\nloop: {steps: 1, batch_size: 1}\noutput: o\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "optimizer: {lr: 1}\n", "did you mean optimiser"),
        (GOOD.replace("steps: 1", "steps: 0"), "loop.steps"),
        (GOOD.replace("steps: 1", "setps: 1"), "loop"),
        (GOOD.replace("batch_size: 1", "batch_size: many"), "batch_size"),
        ("- a\n- b\n", "expected a mapping"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_a_faulty_recipe_is_refused(tmp_path, text, words):
    with pytest.raises(BadInput, match=words) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_picture_is_no_recipe(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(BadInput, match="no recipe that can be read"):
        load_recipe(tmp_path / "r.yaml")


def test_senseless_settings_of_the_diffusion_objective_are_refused():
    good = {"kind": "diffusion", "vae": "vae"}
    for bad, words in (
        ({"identity_drop": 0.5, "both_drop": 0.6}, "together at most 1"),
        ({"text_width": 16}, "text_width"),
        ({"channels": []}, "channels"),
        ({"tokens": 0}, "tokens"),
        ({"vocabulary": 10}, "vocabulary"),
    ):
        with pytest.raises(BadInput, match=words):
            parse(DiffusionConfig, good | bad, "r")


def test_where_and_how_long_are_checked_before_anything_is_built(tmp_path):
    recipe = write(tmp_path, GOOD)
    (tmp_path / "file").write_text("")
    for minutes in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="--minutes"):
            run_recipe(recipe, output=tmp_path / "run", minutes=minutes)
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInput, match="no writable folder"):
            run_recipe(recipe, output=output)


def test_a_missing_recipe_names_the_known_ones(tmp_path):
    with pytest.raises(BadInput, match="mini-vae"):
        load_recipe(tmp_path / "none.yaml")


def test_an_unknown_objective_offers_the_nearest(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD.replace("autoencoder", "autoencode")))
    with pytest.raises(UnknownName, match="autoencoder"):
        build_objective(recipe)


def test_an_unknown_key_of_an_objective_is_named(tmp_path):
    recipe = load_recipe(
        write(tmp_path, GOOD.replace("{kind: autoencoder}", "{kind: autoencoder, chanels: 3}"))
    )
    with pytest.raises(BadInput, match="did you mean channels"):
        build_objective(recipe)
