"""What conditions are worth: nothing to a model that cannot see them, something to one that can."""

from __future__ import annotations

import pytest
import torch

from idpersona.errors import BadInput
from idpersona.training import conditions as measuring
from idpersona.training.config import load_recipe
from idpersona.training.run import run_recipe


@pytest.fixture
def recipe_path(diffusion_objective, tmp_path, recipe_writer):
    return recipe_writer(tmp_path, "mini", diffusion_objective, loop={"steps": 1})


def test_only_what_the_model_sees_is_worth_something(recipe_path):
    run_recipe(recipe_path)
    objective, checkpoint = measuring.load_for_measuring(load_recipe(recipe_path))
    assert checkpoint.name == "step-1"
    assert not objective.trained.training
    net = objective.adapter.identitynet
    with torch.no_grad():
        net.controlnet_cond_embedding.conv_out.weight.zero_()
        for name, value in net.named_parameters():
            if "controlnet_down" in name or "controlnet_mid" in name:
                value.normal_(std=0.1)
    (blind,) = measuring.conditions(objective, 8, (999,))
    assert blind.timestep == 999 and blind.error > 0
    assert blind.pose == 0
    assert blind.person != 0 and blind.prompt != 0
    with torch.no_grad():
        net.controlnet_cond_embedding.conv_out.weight.normal_(std=0.1)
    (seeing,) = measuring.conditions(objective, 8, (999,))
    assert seeing.pose != 0


def test_the_command_prints_a_row_for_each_noise_level(recipe_path, capsys, monkeypatch):
    run_recipe(recipe_path)
    monkeypatch.setattr("sys.argv", ["conditions", str(recipe_path), "--samples", "2"])
    assert measuring.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines[2:]] == list(measuring.TIMESTEPS)
    assert all(len(line.split()) == 5 for line in lines[2:])


def test_what_cannot_be_measured_is_said(recipe_path, tmp_path, recipe_writer, capsys, monkeypatch):
    def refused(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["conditions", *map(str, words)])
        assert measuring.main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no checkpoint" in refused(recipe_path)
    other = recipe_writer(tmp_path, "judge", {"kind": "identity-judge"})
    assert "no text-to-image model" in refused(other)
    run_recipe(recipe_path)
    capsys.readouterr()
    objective, _ = measuring.load_for_measuring(load_recipe(recipe_path))
    with pytest.raises(BadInput, match="two or more"):
        next(measuring.conditions(objective, 1))
