"""Runs that end when a score which nothing is trained on rises no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from idpersona.training.checkpoints import latest_checkpoint
from idpersona.training.config import LoopConfig, OptimiserConfig, Recipe
from idpersona.training.loop import Objective, train
from idpersona.training.objectives.stopping import Stopping


class Overshooting(Objective):
    """A weight is trained from 0 towards 3; what judges it likes it best at 1."""

    check_every = 4

    def __init__(self, patience: int) -> None:
        self.trained = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.trained.weight)
        self.stopping = Stopping("one", self.trained, patience)
        self.looks = 0
        self.exported = 0.0

    def loss(self, key):
        return (self.trained.weight - 3).square().mean(), {}

    def score(self) -> float:
        self.looks += 1
        return -abs(float(self.trained.weight.detach()) - 1)

    def enough(self, step: int) -> bool:
        return self.stopping.enough(step, self.score)

    def resumed(self, checkpoint: Path) -> None:
        self.stopping.load(checkpoint)

    def save(self, folder: Path) -> None:
        self.stopping.save(folder)

    def export(self, folder: Path) -> None:
        self.stopping.put_best()
        self.exported = float(self.trained.weight.detach())


def recipe(folder: Path, **loop: object) -> Recipe:
    values = {
        "steps": 60,
        "batch_size": 1,
        "precision": "no",
        "save_every": 5,
        "trackers": (),
        "ema_decay": 0,
    }
    return Recipe(
        name="overshooting",
        objective={"kind": "overshooting"},
        optimiser=OptimiserConfig(lr=0.1, warmup_steps=1, weight_decay=0, cooldown=0),
        loop=LoopConfig(**values | loop),  # type: ignore[arg-type]
        output=str(folder),
    )


def last_step(folder: Path) -> int:
    found = latest_checkpoint(folder / "checkpoints")
    assert found is not None
    return json.loads((found / "state.json").read_text())["step"]


def test_it_ends_after_some_looks_without_a_better_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = Overshooting(patience=2)
    train(recipe(tmp_path), objective)
    scores = objective.stopping.scores
    best = objective.stopping.best
    assert list(scores) == list(range(0, best + 9, 4)) and 0 < best < 52
    assert last_step(tmp_path) == best + 8, "with a checkpoint, two looks after the best"
    assert abs(objective.exported - 1) == -scores[best], "the best weights are exported"
    assert float(objective.trained.weight.detach()) > objective.exported, "and the last ones stay"
    told = capsys.readouterr().err
    assert f"one gives {scores[best]:.4f}; the best is {scores[best]:.4f} at step {best}" in told
    # Asked for more, it knows that it has ended, and does not look again.
    again = Overshooting(patience=2)
    train(recipe(tmp_path), again, resume=True)
    assert last_step(tmp_path) == best + 8 and again.looks == 0 and again.exported == objective.exported
    # With more patience it goes on from there.
    patient = Overshooting(patience=4)
    train(recipe(tmp_path), patient, resume=True)
    assert last_step(tmp_path) == best + 16 and patient.exported == objective.exported


def test_a_resumption_between_two_looks_keeps_the_best(tmp_path: Path) -> None:
    whole = Overshooting(patience=2)
    train(recipe(tmp_path / "whole"), whole)
    cut = recipe(tmp_path / "parts", steps=whole.stopping.best + 2)
    train(cut, Overshooting(patience=2))
    rest = Overshooting(patience=2)
    train(recipe(tmp_path / "parts"), rest, resume=True)
    # The shorter run looked after its last step, too, and that is not forgotten.
    extra = cut.loop.steps
    assert {s: v for s, v in rest.stopping.scores.items() if s != extra} == whole.stopping.scores
    assert rest.stopping.best == extra and abs(rest.exported - 1) == -rest.stopping.scores[extra]


def test_the_last_weights_are_looked_at(tmp_path: Path) -> None:
    objective = Overshooting(patience=2)
    train(recipe(tmp_path, steps=6), objective)
    assert list(objective.stopping.scores) == [0, 4, 6] and objective.stopping.best == 6
    assert objective.exported == float(objective.trained.weight.detach())


def test_another_judge_knows_nothing_of_the_first_ones_scores(tmp_path: Path) -> None:
    first = Stopping("one", nn.Linear(1, 1), 2)
    assert not first.enough(0, lambda: 0.5)
    first.save(tmp_path)
    same, other = Stopping("one", nn.Linear(1, 1), 2), Stopping("another", nn.Linear(1, 1), 2)
    same.load(tmp_path)
    other.load(tmp_path)
    assert same.scores == {0: 0.5} and other.scores == {}
    same.put_best()
    assert torch.equal(same.trained.state_dict()["weight"], first.trained.state_dict()["weight"])
