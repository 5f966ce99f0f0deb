"""Recipes: every committed one is valid, and a faulty one is refused in one clear line."""

from __future__ import annotations

import pytest

from idpersona.errors import BadInput, UnknownName
from idpersona.training.config import builtin_recipes, load_recipe
from idpersona.training.objectives import KINDS, build_objective


@pytest.mark.parametrize("path", builtin_recipes(), ids=lambda p: p.stem)
def test_committed_recipes_are_valid(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.objective["kind"] in KINDS


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
