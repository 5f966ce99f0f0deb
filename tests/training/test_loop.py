"""The loop: resuming and splitting over processes change nothing, and faults lose nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from idpersona.errors import BadInput, CheckpointError, PhotoError
from idpersona.training.checkpoints import latest_checkpoint
from idpersona.training.config import LoopConfig, OptimiserConfig, Recipe
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective, learning_rate, train
from idpersona.training.progress import Progress
from idpersona.training.setting import Resolved


class Line(Objective):
    """Fit y = 3x - 1 from keyed random points: a real, tiny objective."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.trained = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.exported: dict[str, torch.Tensor] | None = None
        self.poison_at: int | None = None

    def loss(self, key):
        x = key.normal((1,), stream=0)
        loss = (self.trained(x) - (3 * x - 1)).square().mean()
        if key.step == self.poison_at:
            loss = loss * float("nan")
        return loss, {"size": float(x.abs().mean())}

    def export(self, folder: Path) -> None:
        self.exported = {k: v.clone() for k, v in self.trained.state_dict().items()}
        (folder / "done").write_text("done")


def recipe(folder: Path, steps: int = 30, **loop) -> Recipe:
    return Recipe(
        name="line",
        objective={"kind": "line"},
        optimiser=OptimiserConfig(lr=0.02, warmup_steps=5),
        loop=LoopConfig(
            **{"steps": steps, "batch_size": 16, "precision": "no", "save_every": 7, "trackers": ()} | loop
        ),
        output=str(folder),
    )


def test_it_learns(tmp_path):
    objective = Line()
    train(recipe(tmp_path, steps=300), objective)
    with torch.no_grad():
        x = torch.linspace(-1, 1, 9)[:, None]
        assert (objective.trained(x) - (3 * x - 1)).abs().max() < 0.3
    assert (tmp_path / "done").exists()


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, set_clock):
    whole = Line()
    train(recipe(tmp_path / "whole"), whole)
    first = Line()
    with monkeypatch.context() as patch:
        ticks = iter(range(100))
        set_clock(patch, lambda: float(next(ticks)))
        train(recipe(tmp_path / "parts"), first, stop_at=10)
    stopped = latest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert 0 < int(stopped.name.split("-")[1]) < 30
    second = Line()
    train(recipe(tmp_path / "parts"), second, resume=True)
    for name, value in whole.exported.items():
        assert torch.equal(value, second.exported[name]), name
    for name, value in whole.trained.state_dict().items():
        assert torch.equal(value, second.trained.state_dict()[name]), name


def test_export_holds_the_average_and_leaves_the_weights(tmp_path):
    objective = Line()
    train(recipe(tmp_path), objective)
    key = "0.weight"
    assert not torch.equal(objective.exported[key], objective.trained.state_dict()[key])


def test_a_time_in_the_past_exports_the_newest_checkpoint(tmp_path):
    whole = Line()
    train(recipe(tmp_path), whole)
    again = Line()
    train(recipe(tmp_path), again, resume=True, stop_at=0.0)
    for name, value in whole.exported.items():
        assert torch.equal(value, again.exported[name]), name


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(recipe(tmp_path), Line())
    with pytest.raises(BadInput, match="--resume"):
        train(recipe(tmp_path), Line())


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "done").write_text("mine")
    with pytest.raises(BadInput, match="holds no run"):
        train(recipe(tmp_path), Line())
    assert (tmp_path / "done").read_text() == "mine"
    (tmp_path / "recipe.json").write_text("{}")  # a run that was stopped before its first checkpoint
    train(recipe(tmp_path), Line())


def test_a_loss_that_is_not_a_number_stops_with_the_last_good_checkpoint(tmp_path):
    objective = Line()
    objective.poison_at = 20
    with pytest.raises(BadInput, match="step-14"):
        train(recipe(tmp_path), objective)
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-14"


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    train(recipe(tmp_path), Line())
    other = Line()
    other.trained = nn.Sequential(nn.Linear(1, 9), nn.Tanh(), nn.Linear(9, 1))
    with pytest.raises(CheckpointError, match="step-30 does not fit") as caught:
        train(recipe(tmp_path, steps=40), other, resume=True)
    assert "\n" not in str(caught.value)


def test_draws_of_modules_are_the_same_after_a_resumption(tmp_path, monkeypatch, set_clock):
    def dropping():
        line = Line()
        line.trained = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        return line

    torch.manual_seed(5)
    whole = dropping()
    start = {k: v.clone() for k, v in whole.trained.state_dict().items()}
    train(recipe(tmp_path / "whole"), whole)
    for resume in (False, True):
        part = dropping()
        part.trained.load_state_dict(start)
        torch.manual_seed(1000 + resume)
        with monkeypatch.context() as patch:
            ticks = iter(range(100))
            set_clock(patch, lambda ticks=ticks: float(next(ticks)))
            train(recipe(tmp_path / "parts"), part, resume=resume, stop_at=None if resume else 10)
    for name, value in whole.trained.state_dict().items():
        assert torch.equal(value, part.trained.state_dict()[name]), name


def test_a_resumption_with_another_recipe_is_said_or_refused(tmp_path, capsys):
    train(recipe(tmp_path, steps=7), Line())
    train(recipe(tmp_path, steps=14, log_every=5), Line(), resume=True)
    said = capsys.readouterr().err
    assert "line: loop.steps was 7, is 14 from here on" in said
    assert "loop.log_every was 20, is 5" in said
    more = recipe(tmp_path, steps=14).model_copy(update={"objective": {"kind": "line", "drawn": 0.25}})
    train(more, Line(), resume=True)
    assert "objective.drawn was not set, is 0.25 from here on" in capsys.readouterr().err
    train(recipe(tmp_path, steps=14), Line(), resume=True)
    assert "objective.drawn was not set" not in (said := capsys.readouterr().err), said
    state = json.loads((latest_checkpoint(tmp_path / "checkpoints") / "state.json").read_text())
    assert state["step"] == 14 and state["recipe"]["loop"]["steps"] == 14
    with pytest.raises(BadInput, match=r"made with loop\.seed 0, the recipe says 3"):
        train(recipe(tmp_path, steps=21, seed=3), Line(), resume=True)


def test_a_figure_that_not_every_step_has_is_averaged_over_those_that_do(capsys):
    with Progress("line", 4, 8, 0, enabled=True) as progress:
        for step in range(1, 5):
            progress.update(step, {"loss": 1.0} | ({"rare": 0.2} if step > 2 else {}), every=4)
    assert "loss 1.0000 rare 0.2000" in capsys.readouterr().err


def test_a_half_written_checkpoint_is_not_taken(tmp_path):
    train(recipe(tmp_path), Line())
    (tmp_path / "checkpoints" / "step-99.partial").mkdir()
    (tmp_path / "checkpoints" / "step-98").mkdir()
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-30"


def test_learning_rate_warms_up_holds_and_falls():
    config = OptimiserConfig(lr=1.0, warmup_steps=10, cooldown=0.5)
    rates = [learning_rate(config, s, 100) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[49] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[50:])) and rates[-1] < 0.02


def test_what_a_sample_sees_does_not_depend_on_who_computes_it():
    whole = StepKey(3, 11, range(8), 8)
    left, right = StepKey(3, 11, range(4), 8), StepKey(3, 11, range(4, 8), 8)
    joined = torch.cat([left.normal((2, 3), 1), right.normal((2, 3), 1)])
    assert torch.equal(whole.normal((2, 3), 1), joined)
    assert np.array_equal(whole.strata(), np.concatenate([left.strata(), right.strata()]))
    assert sorted(whole.strata()) == list(range(8))


def test_seed_step_index_and_purpose_all_matter():
    base = StepKey(0, 0, [0], 4).normal((16,), 0)
    for other in (
        StepKey(1, 0, [0], 4).normal((16,), 0),
        StepKey(0, 1, [0], 4).normal((16,), 0),
        StepKey(0, 0, [1], 4).normal((16,), 0),
        StepKey(0, 0, [0], 4).normal((16,), 1),
    ):
        assert not torch.allclose(base, other)


def test_gradients_added_up_over_parts_are_those_of_the_batch(tmp_path):
    whole, parts = Line(), Line()
    train(recipe(tmp_path / "whole"), whole)
    train(recipe(tmp_path / "parts", accumulate=4), parts)
    for name, value in whole.trained.state_dict().items():
        assert torch.allclose(value, parts.trained.state_dict()[name], atol=1e-4), name
    with pytest.raises(BadInput, match="does not divide by 1 processes times"):
        train(recipe(tmp_path / "odd", accumulate=5), Line())


def test_what_a_run_was_made_with_lies_beside_it(tmp_path):
    made = recipe(tmp_path, trackers=("tensorboard",))
    train(made, Line(), given="name: line  # as written\n")
    assert (tmp_path / "given.yaml").read_text() == "name: line  # as written\n"
    resolved = Resolved.model_validate_json((tmp_path / "resolved.json").read_text())
    assert resolved.recipe == made and resolved.trained == {"0": 16, "2": 9}
    assert (resolved.processes, resolved.rows, resolved.device) == (1, 16, "cpu")
    assert resolved.versions["torch"] == torch.__version__.split("+")[0] or "+" in resolved.versions["torch"]


def test_figures_are_tracked(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe(tmp_path, log_every=10, trackers=("tensorboard",)), Line())
    (folder,) = {path.parent for path in (tmp_path / "logs").rglob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    assert {"loss", "size", "lr", "samples_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [10, 20, 30]
    with pytest.raises(BadInput, match="nowhere is not installed"):
        train(recipe(tmp_path / "other", trackers=("nowhere",)), Line())


def test_a_checkpoint_holds_what_the_objective_keeps_for_others(tmp_path):
    class Kept(Line):
        def save(self, folder: Path) -> None:
            torch.save(self.trained.state_dict(), folder / "line.pt")

    objective = Kept()
    train(recipe(tmp_path), objective)
    found = torch.load(tmp_path / "checkpoints" / "step-30" / "line.pt", weights_only=True)
    for name, value in objective.exported.items():
        assert torch.equal(found[name], value), "the averaged weights"


class Network(nn.Sequential):
    """A network of somebody's own: those of torch itself are never compiled by themselves."""

    def forward(self, x):
        return super().forward(x)


class Compiled(Line):
    """The network is what is trained, or lies in a module that only holds it."""

    def __init__(self, nested: bool) -> None:
        super().__init__()
        self.net = Network(*self.trained)
        self.trained = nn.ModuleDict({"a": nn.ModuleDict({"net": self.net})}) if nested else self.net

    def loss(self, key):
        x = key.normal((1,), stream=0)
        return (self.net(x) - (3 * x - 1)).square().mean(), {}


@pytest.mark.parametrize("nested", [False, True])
def test_compiled_networks_take_the_same_steps(tmp_path, nested):
    # AOTAutograd traces forward and backward pass and needs no compiler of C++, as inductor does.
    plain, compiled, resumed = Compiled(nested), Compiled(nested), Compiled(nested)
    train(recipe(tmp_path / "plain", steps=5), plain)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    train(recipe(tmp_path / "compiled", steps=5, compile="aot_eager"), compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for name, value in plain.trained.state_dict().items():
        torch.testing.assert_close(compiled.trained.state_dict()[name], value)
    train(recipe(tmp_path / "compiled", steps=5), resumed, resume=True)


def test_a_compiler_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"loop.compile: .*nonsense"):
        train(recipe(tmp_path, compile="nonsense"), Line())


class Unreadable(Line):
    def loss(self, key):
        if key.step == 4:
            raise PhotoError("photo.png cannot be read")
        return super().loss(key)


def test_a_photo_that_cannot_be_read_loses_no_step(tmp_path):
    with pytest.raises(PhotoError, match=r"photo\.png"):
        train(recipe(tmp_path), Unreadable())
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-4"
    mended, whole = Line(), Line()
    train(recipe(tmp_path), mended, resume=True)
    train(recipe(tmp_path / "whole"), whole)
    for name, value in whole.exported.items():
        assert torch.equal(value, mended.exported[name]), name
