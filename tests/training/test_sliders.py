"""The W+ adapter's directions, trained on what they do to drawn pictures."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from idpersona.adapters.wplus.adapter import WPlus
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.encoders.style import StyleEncoder
from idpersona.errors import BadInput, UnknownName
from idpersona.training.config import load_recipe
from idpersona.training.directions import NAMES, add_directions, attribute_of
from idpersona.training.keyed import StepKey
from idpersona.training.objectives import build_objective
from idpersona.training.run import run_recipe

KEY = StepKey(0, 0, range(8), 8)


def build(path):
    return build_objective(load_recipe(path))


@pytest.fixture(scope="module")
def slider_recipe(runs, diffusion_run, vae_run, labeler_run, trained, recipe_writer, tmp_path_factory):
    """Writes the tiny recipe that trains directions, with changes."""
    folder = tmp_path_factory.mktemp("sliders")
    shutil.copytree(trained("wplus") / "wplus", folder / "wplus")
    add_directions(folder / "wplus", runs["style"] / "encoder", labeler_run / "model", str(vae_run / "vae"))

    def write(**changes):
        objective = {
            "kind": "sliders",
            "base": str(diffusion_run / "base"),
            "adapter": str(folder / "wplus"),
            "style": str(runs["style"] / "encoder"),
            "labeler": str(labeler_run / "model"),
            **changes,
        }
        return recipe_writer(tmp_path_factory.mktemp("run"), "sliders", objective, loop={"steps": 2})

    return folder / "wplus", write


def test_sliders_are_trained_and_the_adapter_is_not(slider_recipe):
    start, write = slider_recipe
    before, after = WPlus.from_pretrained(start), WPlus.from_pretrained(run_recipe(write()) / "wplus")
    for name in ("mapper", "cross_attention"):
        own = before.parts[name].state_dict()
        assert all(torch.equal(own[key], value) for key, value in after.parts[name].state_dict().items())
    moved = (after.own_directions.steps - before.own_directions.steps).abs().amax(dim=(1, 2))
    assert (moved > 0).any() and after.own_directions.config["names"] == before.own_directions.config["names"]


def test_a_direction_learns_from_the_pictures_that_it_moves(slider_recipe, labeler_run):
    objective = build(slider_recipe[1](length=0.0))
    loss, figures = objective.loss(KEY)
    loss.backward()
    _, chosen, amounts = objective._samples(KEY)
    learnt = objective.trained["steps"].grad.abs().amax(dim=(1, 2)) > 0
    assert {n for n, value in enumerate(learnt.tolist()) if value} == set(chosen.tolist())
    assert amounts.abs().max() <= 2 and figures["missed"] > 0 and figures["beside"] > 0
    still = build(slider_recipe[1](amount=0.0)).loss(KEY)[1]
    assert still == {"missed": 0, "beside": 0, "length": 0}
    labels = SmallFaceCNN.from_pretrained(labeler_run / "model").config["labels"]
    meant = [NAMES[name] for name in objective.names]
    assert [
        (labels[column], sign) for column, sign in zip(objective.columns, objective.signs, strict=True)
    ] == meant


def test_a_slider_is_right_when_the_answer_moves_by_its_amount(slider_recipe):
    """Answers in place of the classifier's: what a perfect direction would bring about."""
    objective = build(slider_recipe[1](length=0.0))
    _, chosen, amounts = objective._samples(KEY)
    before = torch.randn(len(chosen), len(objective.spread))
    after, rows = before.clone(), torch.arange(len(chosen))
    columns = objective.columns[chosen]
    after[rows, columns] += amounts * objective.signs[chosen] * objective.spread[columns]
    told = iter((before, after))
    objective._answers = lambda latents: next(told) + 0 * latents.mean()
    figures = objective.loss(KEY)[1]
    assert figures["missed"] < 1e-9 and figures["beside"] < 1e-9


@pytest.mark.parametrize(("name", "error"), [("smirk", UnknownName), ("smile", BadInput)])
def test_a_direction_that_nobody_can_judge_is_refused(name, error):
    with pytest.raises(error, match=name):
        attribute_of(name, ["Male"])


def test_codes_of_another_space_are_refused(slider_recipe, runs, recipe_writer, tmp_path):
    encoder = StyleEncoder.from_pretrained(runs["style"] / "encoder")
    other = StyleEncoder(**{**{k: v for k, v in encoder.config.items() if k[0] != "_"}, "rows": 5})
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match=r"makes codes \[5, 16\].* takes \[6, 16\]"):
        build(slider_recipe[1](style=str(tmp_path / "other")))


def test_an_adapter_without_directions_has_no_sliders(slider_recipe, trained, tmp_path):
    shutil.copytree(trained("wplus") / "wplus", tmp_path / "wplus")
    shutil.rmtree(tmp_path / "wplus" / "directions", ignore_errors=True)
    head = json.loads((tmp_path / "wplus" / "adapter.json").read_text())
    head["parts"] = [part for part in head["parts"] if part != "directions"]
    (tmp_path / "wplus" / "adapter.json").write_text(json.dumps(head))
    with pytest.raises(BadInput, match="no directions to start from"):
        build(slider_recipe[1](adapter=str(tmp_path / "wplus")))
