"""Pictures while a training runs: they are what users would draw, are scored, and change nothing."""

from __future__ import annotations

import csv
import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from idpersona.adapters import load_adapter
from idpersona.errors import BadInput, Interrupted, NoFaceFound, PhotoError, UnknownName
from idpersona.provenance import is_marked, read_settings
from idpersona.testing import tiny_components
from idpersona.training.config import Recipe, load_recipe
from idpersona.training.loop import train
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.denoising import SCHEDULE
from idpersona.training.objectives.diffusion_models import base_pipeline
from idpersona.training.objectives.persona import PersonaConfig, PersonaObjective
from idpersona.training.progress import Progress
from idpersona.training.run import run_recipe
from idpersona.training.samples.drawing import Drawing, undisturbed
from idpersona.training.samples.sheet import Samples
from idpersona.training.setting import start_accelerator

METHODS = ("instantid", "infinite-id", "wplus", "anymaker")
PEOPLE = ["sample:person-1", "sample:person-2"]
SAMPLES = {"every": 2, "prompts": ["a photo of a man", "a photo of a woman"], "steps": 2, "photos": PEOPLE}
ALONE = SAMPLES | {"photos": []}
PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def persona(recipe_writer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Writes the recipe of a persona on a tiny base, the cheapest thing that draws."""
    bases = {kind: tmp_path_factory.mktemp("bases") / kind for kind in PIPELINES}
    for kind, pipeline in PIPELINES.items():
        pipeline(**tiny_components(kind)).save_pretrained(bases[kind])

    def write(samples: Any, *, kind: str = "sd15", folder: Path | None = None, **loop: Any) -> Path:
        objective = {"kind": "persona", "base": str(bases[kind]), "photos": PEOPLE[:1], "identity": "none"}
        objective |= {"class_pictures": 0, "rank": 2}
        usual = {"steps": 4, "batch_size": 2}
        folder = folder or tmp_path_factory.mktemp("persona")
        return recipe_writer(folder, "persona", objective, samples=samples, loop=usual | loop)

    return write


@pytest.fixture(scope="module")
def other_recipes(
    diffusion_run: Path, diffusion_objective: Any, labeler_run: Path, recipe_writer: Any
) -> Any:
    """Writes recipes of what is no adapter alone: a LoRA, and the base with InstantID."""
    lora = {"kind": "lora", "base": str(diffusion_run / "base"), "labeler": str(labeler_run / "model")}
    lora |= {"attribute": "Smiling", "photos": 4, "rank": 2}
    tables = {"lora": lora, "diffusion": diffusion_objective}

    def write(folder: Path, kind: str, samples: Any) -> Path:
        return recipe_writer(folder, kind, tables[kind], samples=samples, loop={"steps": 2})

    return write


def tensors(output: Path) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint holds."""
    (last,) = sorted(output.glob("checkpoints/step-*"), key=lambda p: int(p.name.split("-")[1]))[-1:]
    found = {
        f"{n}.{k}": v for n in ("weights", "ema") for k, v in load_file(last / f"{n}.safetensors").items()
    }
    for number, part in enumerate(torch.load(last / "optimiser.pt", weights_only=True)):
        for n, state in part["state"].items():
            found |= {f"{number}.{n}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return found


def same(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys() and len(first) > 3
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "samples" / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sheets(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "samples").glob("*.png"))


def without(path: Path, folder: Path) -> Path:
    """The same recipe without samples."""
    recipe = yaml.safe_load(path.read_text()) | {"samples": None, "output": str(folder / "plain")}
    plain = folder / "plain.yaml"
    plain.write_text(yaml.safe_dump(recipe))
    return plain


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_is_drawn_for_each_person_and_trained_as_without(
    method: str, recipe_of: Any, tmp_path: Path
) -> None:
    path = recipe_of(method, samples=SAMPLES)
    output = run_recipe(path)
    assert sheets(output) == ["step-000000.png", "step-000002.png"]
    found = rows(output)
    assert [(row["step"], row["person"], row["prompt"]) for row in found] == [
        (step, person, prompt)
        for step in ("0", "2")
        for person in ("person-1", "person-2")
        for prompt in SAMPLES["prompts"]
    ]
    assert {(row["judge"], row["measure"]) for row in found} == {("dlib", "1 - L2 distance")}
    sheet = output / "samples" / "step-000002.png"
    assert is_marked(sheet) and Image.open(sheet).size == (96 + 3 * 128, 14 + 2 * 128)
    same(output, run_recipe(without(path, tmp_path)))


def test_a_sheet_shows_what_the_checkpoint_draws(recipe_of: Any, diffusion_run: Path) -> None:
    output = run_recipe(recipe_of("instantid", samples=SAMPLES | {"seeds": [5], "guidance": 3.0}))
    pipe: Any = StableDiffusionPipeline.from_pretrained(diffusion_run / "base")
    pipe.set_progress_bar_config(disable=True)
    adapter = load_adapter(output / "checkpoints" / "step-2", base=pipe)
    sheet = np.asarray(Image.open(output / "samples" / "step-000002.png"))

    def draw(prompt: str) -> np.ndarray:
        noise = torch.Generator().manual_seed(5)
        drawn = pipe(prompt, num_inference_steps=2, guidance_scale=3.0, generator=noise).images[0]
        return np.asarray(drawn)

    for n, photo in enumerate(PEOPLE):
        for m, prompt in enumerate(SAMPLES["prompts"]):
            shown = sheet[14 + 128 * n :, 96 + 128 * (m + 1) :][:128, :128]
            with adapter.attach(pipe, adapter.read(photo)):
                drawn = draw(prompt)
            # Training computes by other kernels than users do: a few pixels are rounded otherwise. Of the
            # weights that are not averaged 0.14 % of them would differ.
            assert (shown != drawn).mean() < 4e-4, (photo, prompt)
            assert (shown != draw(prompt)).mean() > 0.01, "the adapter has a part in it"


@pytest.mark.parametrize("kind", ["lora", "diffusion"])
def test_other_models_are_drawn_and_trained_as_without(kind: str, other_recipes: Any, tmp_path: Path) -> None:
    adapter = kind == "diffusion"
    path = other_recipes(tmp_path, kind, (SAMPLES if adapter else ALONE) | {"seeds": [0, 1]})
    output = run_recipe(path)
    at_the_end = [(row["person"], row["seed"]) for row in rows(output)[-len(rows(output)) // 2 :: 2]]
    people = ["", "person-1", "person-2"] if adapter else [""]  # the base alone, then with the adapter
    assert at_the_end == [(person, seed) for person in people for seed in "01"]
    size = Image.open(output / "samples" / "step-000002.png").size
    assert size == (96 + (3 if adapter else 2) * 128, 14 + 2 * len(people) * 128)
    same(output, run_recipe(without(path, tmp_path)))


def test_a_persona_is_drawn_and_trained_as_without(persona: Any, tmp_path: Path) -> None:
    path = persona(ALONE | {"every": 3, "seeds": [0, 1], "negative": "hat"}, kind="sdxl")
    output = run_recipe(path)
    assert sheets(output) == ["step-000000.png", "step-000003.png", "step-000004.png"]
    assert {row["person"] for row in rows(output)} == {"person"}
    assert read_settings(output / "samples" / "step-000003.png")["seeds"] == [0, 1]
    same(output, run_recipe(without(path, tmp_path)))


def test_scores_tell_whose_faces_are_drawn(
    archives: Any, cache: Path, labeler_run: Path, recipe_writer: Any, tmp_path: Path, capsys: Any
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    objective = {"kind": "instantid", "base": "assets/mini", "labeler": str(labeler_run / "model")}
    root = Path(__file__).resolve().parents[2]
    objective["base"] = str(root / "assets" / "mini")
    samples = SAMPLES | {"every": 5, "steps": 12, "guidance": 2.0, "judge": "mini-judge"}
    samples["prompts"] = ["a photo of a person"]
    path = recipe_writer(
        tmp_path,
        "instantid",
        objective,
        samples=samples,
        init_from=str(root / "assets" / "instantid-mini"),
        loop={"steps": 1, "batch_size": 2, "trackers": ["tensorboard"]},
        optimiser={"lr": 1e-6},
    )
    output = run_recipe(path)
    found = [row for row in rows(output) if row["step"] == "0"]
    assert len(found) == 2
    for row in found:
        assert row["face_found"] == "1" and (row["judge"], row["measure"]) == ("mini-judge", "cosine")
        assert float(row["identity_own"]) > float(row["identity_others"]), row
    (folder,) = {path.parent for path in (output / "logs").rglob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Images("samples")] == [0, 1]
    figures = {name: events.Scalars(name)[0].value for name in ("identity_own", "identity_others")}
    for name, value in figures.items():
        assert value == pytest.approx(np.mean([float(row[name]) for row in found]), abs=1e-5)
    assert events.Scalars("faces_found")[0].value == 1
    said = capsys.readouterr().err
    assert f"samples of step 0: identity_own {figures['identity_own']:.4f}" in said
    assert "optimistic" not in said, "mini-judge has no part in training"
    settings = read_settings(output / "samples" / "step-000000.png")
    assert settings["scores"]["identity_own"] == pytest.approx(figures["identity_own"])


def state(objective: Any, pipe: Any) -> dict[str, Any]:
    """What drawing might leave behind."""
    found: dict[str, Any] = {}
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    adapter = getattr(objective, "adapter", None)
    for name, part in (parts | (adapter.parts if adapter else {})).items():
        found |= {f"{name}.{key}": value.clone() for key, value in part.state_dict().items()}
        for path, module in part.named_modules():
            hooks = [
                len(getattr(module, f"_{kind}hooks")) for kind in ("forward_", "forward_pre_", "backward_")
            ]
            found[f"{name}.{path}"] = (id(module), module.training, hooks, id(vars(module).get("processor")))
            assert "forward" not in vars(module)
        found |= {f"{name}.{p} gradient": value.requires_grad for p, value in part.named_parameters()}
    found["torch"], found["python"] = torch.get_rng_state(), random.getstate()
    found |= {f"numpy {n}": torch.as_tensor(v) for n, v in enumerate(np.random.get_state()[1:])}
    return found


@pytest.mark.parametrize("method", [*METHODS, "lora", "diffusion", "persona"])
def test_nothing_is_left_behind(
    method: str, recipe_of: Any, other_recipes: Any, persona: Any, tmp_path: Path
) -> None:
    samples = SAMPLES if method != "lora" else ALONE
    if method in METHODS:
        path = recipe_of(method, samples=samples)
    elif method == "persona":
        path = persona(samples)
    else:
        path = other_recipes(tmp_path, method, samples)
    recipe = load_recipe(path)
    objective: Any = build_objective(recipe)
    objective.trained.eval()
    pipe = base_pipeline(objective.base, SCHEDULE) if method == "diffusion" else objective.model.pipe
    before = state(objective, pipe)
    watched = Samples.open(recipe, objective, start_accelerator(recipe.loop, tmp_path))
    assert watched is not None
    watched.draw(2, stop=lambda: False, say=print)
    watched.draw(2, stop=lambda: True, say=print)
    stopped = iter([False, True])
    (Path(recipe.output) / "samples" / "step-000002.png").unlink()
    watched.draw(2, stop=lambda: next(stopped), say=print)
    assert sheets(Path(recipe.output)) == [], "abandoned in the middle of a picture"
    after = state(objective, pipe)
    assert before.keys() == after.keys()
    for name, value in before.items():
        now = after[name]
        assert torch.equal(value, now) if isinstance(value, torch.Tensor) else value == now, name


def test_random_numbers_go_on_as_if_nothing_was_drawn() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.random()), float(torch.rand(()))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = [draw()]
    with pytest.raises(ZeroDivisionError), undisturbed(torch.device("cpu")):
        assert draw() == wanted[1] and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [*found, draw()] == wanted


def times(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "samples").iterdir()}


def test_what_is_there_is_drawn_again_only_where_it_has_changed(persona: Any, tmp_path: Path) -> None:
    path = persona(ALONE, folder=tmp_path)
    output = run_recipe(path)
    before = times(output)
    assert len(before) == 4
    run_recipe(path, resume=True, minutes=0)
    assert times(output) == before, "the newest is there"
    # Back to the checkpoint of step 2: the run goes the same way again, and its sheets are there.
    for file in (output / "checkpoints" / "step-4").rglob("*"):
        file.unlink()
    (output / "checkpoints" / "step-4").rmdir()
    run_recipe(path, resume=True)
    assert times(output) == before
    (output / "samples" / "step-000004.png").unlink()
    run_recipe(path, resume=True)
    again = times(output)
    assert again["step-000004.png"] > before["step-000004.png"]
    assert {name for name in before if again[name] == before[name]} == {"step-000000.png", "step-000002.png"}
    assert [row["step"] for row in rows(output)] == ["0"] * 2 + ["2"] * 2 + ["4"] * 2
    scores = output / "samples" / "scores.csv"
    before = scores.read_text()
    scores.write_text(before.replace("step,", "when,"))
    with pytest.raises(BadInput, match="holds something else than scores"):
        run_recipe(path, resume=True)
    scores.write_text(before)
    persona(ALONE | {"prompts": ["a hat"]}, folder=tmp_path)
    run_recipe(path, resume=True)
    assert [(row["step"], row["prompt"]) for row in rows(output)[4:]] == [("4", "a hat")]
    persona(ALONE | {"prompts": ["a hat"]}, folder=tmp_path, steps=6)
    run_recipe(path, resume=True)
    assert [row["step"] for row in rows(output)] == ["0"] * 2 + ["2"] * 2 + ["4", "6"]


class Signalled(PersonaObjective):
    """Receives a signal in the middle of its ``number``-th drawing."""

    def __init__(self, recipe: Recipe, number: int):
        torch.manual_seed(0)
        super().__init__(PersonaConfig(**recipe.objective), Path(recipe.output))
        self.number = number

    @contextmanager
    def drawing(self) -> Iterator[Drawing]:
        with super().drawing() as drawing:
            self.number -= 1
            if self.number == 0:
                signal.raise_signal(signal.SIGTERM)
            yield drawing


def test_a_signal_while_drawing_keeps_the_step(persona: Any, tmp_path: Path) -> None:
    whole = load_recipe(persona(ALONE, folder=tmp_path))
    train(whole, Signalled(whole, 0))
    parts = whole.model_copy(update={"output": str(tmp_path / "parts")})
    with pytest.raises(Interrupted, match="step-2 holds step 2 of 4"):
        train(parts, Signalled(parts, 3))  # when it is opened, at step 0, at step 2
    assert sheets(tmp_path / "parts") == ["step-000000.png"]
    train(parts, Signalled(parts, 0), resume=True)
    assert sheets(tmp_path / "parts") == ["step-000000.png", "step-000002.png", "step-000004.png"]
    same(Path(whole.output), tmp_path / "parts")
    assert rows(Path(whole.output)) == rows(tmp_path / "parts")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"evry": 3}, BadInput, "samples.evry: did you mean every"),
        ({"prompts": []}, BadInput, "samples.prompts"),
        ({"seeds": [-1]}, BadInput, "samples.seeds"),
        ({"judge": "dlb"}, UnknownName, "did you mean dlib"),
        ({"judge": "mini-jugde"}, UnknownName, "mini-judge"),
        ({"judge": "mini-vit"}, BadInput, "does not tell people apart"),
        ({"photos": ["nowhere.png"]}, PhotoError, "no such photo: nowhere.png"),
        ({"photos": ["blank.png"]}, NoFaceFound, "no face found in .*blank.png"),
        ({"photos": []}, BadInput, "needs people"),
        ({"prompts": ["a photo of a teapot"]}, BadInput, "does not name the object"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(
    change: Any, error: Any, words: str, recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "blank.png")
    monkeypatch.chdir(tmp_path)
    path = recipe_of("anymaker", samples=SAMPLES | change)
    with pytest.raises(error, match=words) as caught:
        run_recipe(path)
    assert "\n" not in str(caught.value)
    assert not (path.parent / "anymaker" / "checkpoints").exists()


def test_a_resumption_finds_out_before_its_first_step_as_well(recipe_of: Any) -> None:
    loop = {"steps": 3, "save_every": 1}
    path = recipe_of("anymaker", loop=loop)
    output = run_recipe(path)
    recipe = yaml.safe_load(path.read_text())
    recipe["samples"] = SAMPLES | {"every": 100, "prompts": ["a photo of a teapot"]}
    recipe["loop"]["steps"] = 5
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(BadInput, match="does not name the object"):
        run_recipe(path, resume=True)
    assert not (output / "checkpoints" / "step-4").exists() and not (output / "samples").exists()


def test_what_draws_nothing_has_no_samples(
    vae_run: Path, persona: Any, other_recipes: Any, recipe_writer: Any, tmp_path: Path
) -> None:
    objective = json.loads((vae_run / "recipe.json").read_text())["objective"]
    with pytest.raises(BadInput, match="AutoencoderObjective draws no pictures"):
        run_recipe(recipe_writer(tmp_path, "vae", objective, samples=SAMPLES))
    with pytest.raises(BadInput, match="nobody in particular"):
        run_recipe(other_recipes(tmp_path, "lora", SAMPLES))


def test_drawing_takes_none_of_the_time_of_steps() -> None:
    with Progress("x", 2, 8, 0, enabled=True) as progress:
        with progress.aside():
            time.sleep(0.3)
        assert progress.update(1, {"loss": 1.0}, every=1)["samples_per_second"] > 8 / 0.3
