"""Personas with reward feedback, and with each photo's surroundings told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from idpersona.errors import BadInput, UnknownName
from idpersona.pipelines import load_base
from idpersona.testing.measuring import tiny_clip
from idpersona.training.config import load_recipe
from idpersona.training.keyed import StepKey
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.disenbooth import ImageAdapter, embed_pictures, overlap
from idpersona.training.run import run_recipe

KEY = StepKey(0, 0, range(2), 2)
PHOTOS = ["sample:person-1", "sample:person-3"]


@pytest.fixture(scope="module")
def write(recipe_writer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def made(**changes: Any) -> Path:
        objective = {"kind": "persona", "base": "mini", "photos": PHOTOS, "crop": "face", "rank": 2}
        objective |= {"class_pictures": 0, "identity": "none"} | changes
        loop = {"steps": 2, "batch_size": 2, "save_every": 1}
        return recipe_writer(tmp_path_factory.mktemp("persona"), "persona", objective, loop=loop)

    return made


def build(path: Path) -> Any:
    torch.manual_seed(0)
    recipe = load_recipe(path)
    objective: Any = build_objective(recipe)
    objective.begin(Path(recipe.output))
    return objective


def touched(objective: Any) -> set[str]:
    model = objective.model
    others = [model.pipe.vae, model.pipe.text_encoder]
    others += [objective.feedback.reader.network] if objective.feedback else []
    assert all(p.grad is None for part in others for p in part.parameters())
    return {name for name, p in objective.trained.named_parameters() if p.grad is not None}


def test_a_lora_learns_from_its_own_pictures(write: Any) -> None:
    objective = build(write(reward={"steps": 4, "guard": 0.01}))
    assert float(objective.rewarded.norm()) == pytest.approx(1, abs=1e-5)
    parameters = [p for p in objective.trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 2e-3)
    seen = []
    for _ in range(8):
        loss, figures = objective.loss(KEY)
        loss.backward()
        assert touched(objective) == {n for n, p in objective.trained.named_parameters() if p.requires_grad}
        optimiser.step()
        optimiser.zero_grad()
        seen.append(figures)
    assert {"mse", "faces", "reward", "moved"} <= seen[0].keys() and seen[0]["moved"] == 0
    assert seen[0]["faces"] == seen[-1]["faces"] == 1
    assert seen[-1]["reward"] > seen[0]["reward"] + 0.03
    assert seen[-1]["moved"] > 0


def test_class_pictures_are_not_rewarded(write: Any) -> None:
    objective = build(write(reward={"steps": 2, "late": 0.5}, class_pictures=1, class_steps=2))
    loss, figures = objective.loss(KEY)
    assert {"mse", "prior", "faces"} <= figures.keys()
    alone = objective.loss(StepKey(0, 0, [1], 2))[1]
    assert "prior" in alone and "faces" not in alone
    assert torch.isfinite(loss)


def test_a_persona_ends_when_another_network_sees_nothing_more(write: Any, tmp_path: Path) -> None:
    reward = {"steps": 2, "late": 0.5, "stop_on": "mini-judge", "stop_every": 1, "stop_pictures": 2}
    path = write(reward=reward | {"patience": 1})
    objective = build(path)
    score = objective.score()
    assert score == objective.score() and -1 <= score <= 1
    run = run_recipe(path, output=tmp_path / "run")
    assert (run / "scores.json").is_file() and (run / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_the_surroundings_are_learnt_beside_the_lora(write: Any, tmp_path: Path) -> None:
    path = write(disenbooth={}, identity="portrait", class_pictures=1, class_steps=2)
    objective = build(path)
    key = StepKey(0, 0, range(4), 4)
    loss, figures = objective.loss(key)
    loss.backward()
    assert {"mse", "prior", "weak", "contrast", "unlike"} <= figures.keys()
    learnt = touched(objective)
    assert {name.split(".")[1] for name in learnt} == {"unet", "image_adapter"}
    assert all("lora_" in name for name in learnt if name.startswith("module.unet"))
    assert {name.removeprefix("module.image_adapter.") for name in learnt} >= {
        name for name, _ in objective.image_adapter.named_parameters()
    }
    objective.trained.zero_grad()
    # What the prompt alone predicts knows nothing of the image adapter.
    own = torch.tensor([True, False, True, False])
    rows = objective._samples(key, [objective._choose(key, n) for n in range(4)])
    objective._denoise(rows.where(own)).loss(5.0).backward()
    assert all(p.grad is None for p in objective.image_adapter.parameters())
    added = objective._surroundings(own, [0, 1])
    assert added.shape == (4, 1, 192) and not bool(added[[1, 3]].any()) and bool(added[[0, 2]].all(2).all())

    run = run_recipe(path, output=tmp_path / "run")
    average = load_file(run / "checkpoints" / "step-2" / "ema.safetensors")
    for place in (run, run / "checkpoints" / "step-2"):
        adapter: Any = ImageAdapter.from_pretrained(place / "image_adapter")
        for name, value in adapter.state_dict().items():
            assert torch.equal(value, average[f"image_adapter.{name}"])
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a photo of sks person", num_inference_steps=2, generator=generator, output_type="latent"
        )[0]

    plain = draw()
    pipe.load_lora_weights(run / "lora")
    assert not torch.equal(draw(), plain)


def test_a_resumed_persona_is_the_uninterrupted_one(write: Any, tmp_path: Path) -> None:
    path = write(disenbooth={}, reward={"steps": 2, "late": 0.5})
    whole = run_recipe(path, output=tmp_path / "whole")
    parts = tmp_path / "parts"
    run_recipe(path, output=parts)
    # As if it had been killed in the second step.
    for file in sorted((parts / "checkpoints" / "step-2").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (parts / "checkpoints" / "step-2").rmdir()
    run_recipe(path, output=parts, resume=True)
    for name in ("weights", "ema"):
        one, two = (load_file(r / "checkpoints" / "step-2" / f"{name}.safetensors") for r in (whole, parts))
        assert one.keys() == two.keys() and all(torch.equal(value, two[n]) for n, value in one.items())


def test_the_image_adapter_by_its_definition() -> None:
    torch.manual_seed(0)
    adapter = ImageAdapter(4, 4)
    torch.nn.init.normal_(adapter.mask)
    shown = torch.randn(3, 4)
    first, _, second = adapter.mlp
    kept = shown / (1 + torch.exp(-adapter.mask))
    hidden = (kept @ first.weight.T + first.bias).clamp(min=0)
    wanted = hidden @ second.weight.T + second.bias + kept
    assert torch.allclose(adapter(shown)[:, 0], wanted, atol=1e-6)
    assert ImageAdapter(4, 6)(shown).shape == (3, 1, 6)


def test_contrast_is_smallest_where_it_says() -> None:
    text = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]).expand(3, -1, -1)
    added = torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]], [[-2.0, 0.0]]])
    assert overlap(text, added, squared=False).tolist() == pytest.approx([1, 0, -1])
    assert overlap(text, added, squared=True).tolist() == pytest.approx([1, 0, 1])


def test_photos_are_read_by_the_embedded_vit_or_a_clip_folder(write: Any, tmp_path: Path) -> None:
    tiny_clip().save_pretrained(tmp_path / "clip")
    for encoder, dim in (("mini-vit-object", 128), (str(tmp_path / "clip"), 16)):
        objective = build(write(disenbooth={"encoder": encoder, "squared": True}))
        assert objective._shown.shape == (2, dim) and not torch.equal(*objective._shown)
        assert objective.image_adapter.config["dim"] == dim
        objective.loss(KEY)[0].backward()
        assert objective.image_adapter.mask.grad is not None
    pictures = [portrait.picture for portrait in objective.portraits]
    assert torch.equal(objective._shown, embed_pictures(str(tmp_path / "clip"), pictures))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"reward": {"wieght": 1}}, BadInput, r"reward\.wieght: did you mean weight"),
        ({"reward": {"align": "target"}}, BadInput, "set it to detect"),
        ({"reward": {"stop_on": "dlib"}}, BadInput, "another network"),
        ({"reward": {"stop_on": "a.pth"}, "reader": "a.pth", "identity": "portrait"}, BadInput, "another"),
        ({"disenbooth": {"week": 1}}, BadInput, r"disenbooth\.week: did you mean weak"),
        ({"disenbooth": {"encoder": "mini-vit"}}, UnknownName, "did you mean mini-vit-object"),
    ],
)
def test_what_makes_no_sense_is_refused(
    changes: dict[str, Any], error: type[Exception], words: str, write: Any
) -> None:
    with pytest.raises(error, match=words):
        build(write(**changes))
