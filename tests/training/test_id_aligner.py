"""Adapters that learn from rewards: what learns, what holds them back, and when it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from idpersona.adapters import load_adapter
from idpersona.errors import BadInput, MissingWeights, UnknownName
from idpersona.training.checkpoints import latest_checkpoint
from idpersona.training.config import load_recipe
from idpersona.training.keyed import StepKey
from idpersona.training.loop import train
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.rewards import Wanted
from idpersona.training.run import run_recipe

METHODS = ("instantid", "infinite-id", "wplus", "anymaker")
KEY = StepKey(0, 0, range(4), 4)


@pytest.fixture(scope="module")
def write(recipe_of: Any, trained: Any, recipe_writer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Writes a tiny recipe that rewards what the tiny recipe of a method has made."""

    def made(method: str = "instantid", *, adapter: Any = None, loop: Any = None, **changes: Any) -> Path:
        table = yaml.safe_load(recipe_of(method).read_text())["objective"]
        table |= {"latent_descriptor": None, "identity_drop": 0.0, "both_drop": 0.0} | (adapter or {})
        objective = {"kind": "id-aligner", "adapter": table, "steps": 3, "guard": 0.0} | changes
        loop = {"steps": 4, "batch_size": 4, "save_every": 1} | (loop or {})
        start = str(trained(method) / method)
        folder = tmp_path_factory.mktemp("id-aligner")
        return recipe_writer(folder, "id-aligner", objective, init_from=start, loop=loop)

    return made


def build(path: Path) -> Any:
    torch.manual_seed(0)
    return build_objective(load_recipe(path))


class Redness:
    """A user's own reward, which every method can be given."""

    def __call__(self, pictures: Tensor, wanted: Wanted) -> Tensor:
        return pictures[:, 0].mean(dim=(1, 2)) - pictures[:, 1:].mean(dim=(1, 2, 3))


@pytest.mark.parametrize("method", METHODS)
def test_the_adapter_learns_and_nothing_else(method: str, write: Any) -> None:
    objective = build(write(method, guard=0.1))
    objective.feedback.add("red", 1.0, Redness())
    loss, figures = objective.loss(KEY)
    loss.backward()
    assert {"faces", "red", "moved"} <= figures.keys()
    assert figures["moved"] == 0, "nothing has moved yet"
    touched = {name for name, p in objective.trained.named_parameters() if p.grad is not None}
    parts = set(objective.inner.adapter.parts)
    assert touched == {n for n, _ in objective.trained.named_parameters() if n.split(".")[0] in parts}
    inner, feedback = objective.inner, objective.feedback
    frozen = [inner.unet, inner.model.pipe.text_encoder, inner.model.pipe.vae, feedback.reader.network]
    frozen += [part for name in ("vit", "style") if (part := getattr(inner, name, None)) is not None]
    assert all(p.grad is None for part in frozen for p in part.parameters())


def learn(objective: Any, steps: int, rate: float = 4e-3) -> list[dict[str, float]]:
    """Figures of each step on always the same samples and noise."""
    parameters = [p for p in objective.trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, rate)
    seen = []
    for _ in range(steps):
        loss, figures = objective.loss(KEY)
        seen.append(dict(figures))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return seen


def test_the_reward_rises_and_a_guard_holds_it_back(write: Any) -> None:
    free, held = build(write(guard=1e-9)), build(write(guard=30.0))
    before = {name: value.clone() for name, value in free.inner.unet.state_dict().items()}
    rising, holding = learn(free, 12), learn(held, 12)
    assert rising[0]["reward"] == holding[0]["reward"] and rising[0]["faces"] == 1
    assert rising[-1]["reward"] > rising[0]["reward"] + 0.05
    assert holding[-1]["reward"] < rising[-1]["reward"]
    assert 0 < holding[-1]["moved"] < 0.1 * rising[-1]["moved"]
    for name, value in free.inner.unet.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_pictures_without_a_face_count_nothing(write: Any) -> None:
    """What an untrained model draws shows no face."""
    objective = build(write("wplus"))
    loss, figures = objective.loss(KEY)
    loss.backward()
    assert figures == {"faces": 0.0} and float(loss.detach()) == 0
    assert all(not bool(p.grad.any()) for p in objective.trained.parameters() if p.grad is not None)
    placed = build(write("instantid", align="detect"))
    assert placed.detect and placed.loss(KEY)[1]["faces"] == 0
    # Nobody was asked for: nothing to be like.
    nobody = build(write(adapter={"identity_drop": 1.0, "both_drop": 0.0}))
    assert nobody.loss(KEY)[1]["faces"] == 0


def test_only_the_last_prediction_is_remembered(write: Any) -> None:
    """However many steps a drawing has, its graph is that of one prediction."""

    def saved(steps: int) -> int:
        objective = build(write(steps=steps, late=0.01))
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            objective.loss(KEY)
        return sum(sizes)

    assert saved(2) == saved(6)


def test_held_out_people_are_looked_at_alike_every_time(write: Any) -> None:
    objective = build(write(stop_on="mini-judge", stop_every=2, stop_pictures=3))
    assert objective.check_every == 2
    score = objective.score()
    assert score == objective.score() and -2 < score < 2
    training = set(objective.inner.data.faces.identities)
    assert not training & set(objective.held_out.faces.identities)
    batch = objective.held_out.batch(StepKey(0, 0, range(8), 8))
    assert bool(batch.somebody.all()) and all(batch.texts)
    learn(objective, 1)
    assert objective.score() != score


def files(run: Path) -> dict[str, Tensor]:
    last = latest_checkpoint(run / "checkpoints")
    assert last is not None
    return {
        f"{n}.{k}": v for n in ("weights", "ema") for k, v in load_file(last / f"{n}.safetensors").items()
    }


def test_a_run_stopped_anywhere_ends_where_it_would_have(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_clock: Any
) -> None:
    path = write(guard=0.1, stop_on="mini-judge", stop_every=2, stop_pictures=2, patience=9)
    whole = run_recipe(path, output=tmp_path / "whole")
    recipe = load_recipe(path).model_copy(update={"output": str(tmp_path / "parts")})
    with monkeypatch.context() as patch:
        first, clock = build(path), [0.0]
        loss = first.loss

        def until_the_third(key: StepKey) -> Any:
            clock[0] = float(key.step)
            return loss(key)

        set_clock(patch, lambda: clock[0])
        patch.setattr(first, "loss", until_the_third)
        train(recipe, first, stop_at=2.0)
    stopped = latest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert stopped is not None and stopped.name != "step-4"
    again = train(recipe, build(path), resume=True)
    one, two = files(whole), files(again)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    told = [json.loads((run / "scores.json").read_text()) for run in (whole, again)]
    assert told[0] == told[1] and list(told[0]["scores"]) == ["0", "2", "4"]
    adapters = [load_adapter(run / "instantid").parts["projector"].state_dict() for run in (whole, again)]
    assert all(torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wieght": 1.0}, "did you mean weight"),
        (
            {"adapter": {"same_foto": 0.1}},
            r"objective\.adapter: unknown key same_foto: did you mean same_photo",
        ),
        ({"stop_on": "dlib"}, "another network than the reader"),
        ({"text": 0.1}, "need clip"),
        ({"aesthetic_head": "head.pth"}, "need clip"),
        ({"clip": "somewhere"}, "clip is for"),
        ({"steps": 1}, "steps"),
        ({"late": 0.0}, "late"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str, write: Any) -> None:
    with pytest.raises(BadInput, match=words):
        build(write(**changes))


def test_only_a_trained_adapter_is_rewarded(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean instantid"):
        build(write(adapter={"kind": "instant-id"}))
    with pytest.raises(UnknownName, match=r"objective\.adapter\.kind 'judge'"):
        build(write(adapter={"kind": "judge"}))
    with pytest.raises(BadInput, match=r"align: wplus is not told where .* detect"):
        build(write("wplus", align="target"))
    with pytest.raises(MissingWeights, match="no face network"):
        build(write(reader=str(tmp_path / "none.pth")))
    recipe = load_recipe(write()).model_copy(update={"init_from": None})
    with pytest.raises(BadInput, match="init_from"):
        build_objective(recipe)


def test_it_is_watched_and_checkpointed_as_the_adapter_is(write: Any) -> None:
    objective = build(write())
    with objective.drawing() as drawing:
        assert drawing.adapter is objective.inner.adapter
    objective.checkpoint_activations()
    assert objective.inner.unet.is_gradient_checkpointing
    objective.loss(KEY)[0].backward()
