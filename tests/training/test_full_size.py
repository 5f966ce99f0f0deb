"""InstantID on other bases than the embedded one, from a dataset; what a training at full size would need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from PIL import Image, ImageDraw

from idpersona.adapters import load_adapter
from idpersona.cli.main import main
from idpersona.errors import BadInput
from idpersona.hashing import file_sha256, folder_fingerprint
from idpersona.pipelines import load_base
from idpersona.testing import tiny_components
from idpersona.training.config import load_recipe
from idpersona.training.data.builder.vectors import write_shard
from idpersona.training.data.paired import PairedPhotos
from idpersona.training.keyed import StepKey
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.latent_model import LatentModel
from idpersona.training.plan import plan
from idpersona.training.run import find_recipe, run_recipe

KEY = StepKey(0, 0, range(4), 4)
FEATURES = 24
CLASSES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
EYES = ((90, 60), (110, 60), (100, 72), (92, 84), (108, 84))
FACE = (80.0, 40.0, 120.0, 96.0)


@pytest.fixture(scope="module", params=CLASSES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / request.param
    CLASSES[request.param](**tiny_components(request.param)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people with two photos each, as ``idpersona dataset build`` writes them."""
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    photos: list[dict[str, Any]] = []
    for n in range(6):
        picture = Image.new("RGB", (240, 130), tuple(int(c) for c in rng.integers(0, 120, 3)))
        ImageDraw.Draw(picture).rectangle(FACE, fill=(200, 150, 120))
        for x, y in EYES:
            picture.putpixel((x, y), (255, 255, 255))
        picture.save(folder / f"{n}.png")
        row = {"file_name": f"{n}.png", "caption": f"photo {n} of a person", "bbox": FACE, "landmarks": EYES}
        row |= {"faces": 1, "face_area": 0.07, "identity": f"id-{n // 2}", "width": 240, "height": 130}
        row |= {"sha256": file_sha256(folder / f"{n}.png"), "consent": True, "licence": "", "source": "test"}
        photos.append(row)
    pairs = [
        {"reference": f"{n ^ 1}.png", "target": f"{n}.png", "identity": f"id-{n // 2}", "distance": 0.1}
        for n in range(6)
    ]
    for name, rows in (("metadata.jsonl", photos), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = rng.normal(size=(6, FEATURES)).astype(np.float32)
    file = folder / "embeddings-antelopev2-0123456789ab-00000.safetensors"
    write_shard(file, {"embeddings": people}, [row["sha256"] for row in photos], 0, {"encoder": "antelopev2"})
    return folder


@pytest.fixture
def recipe(base: Path, dataset: Path, tmp_path: Path, recipe_writer: Any) -> Any:
    def write(**changes: Any) -> Path:
        loop = {"steps": 1, "batch_size": 4} | changes.pop("loop", {})
        objective = {"kind": "instantid", "base": str(base), "dataset": str(dataset), "width": 64}
        objective |= {"depth": 1, "drawn": 0.0} | changes
        return recipe_writer(tmp_path, "instantid", objective, loop=loop)

    return write


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_step_on_any_base_makes_an_adapter_of_it(
    checkpointing: bool, base: Path, dataset: Path, recipe: Any
) -> None:
    before = folder_fingerprint(base)
    run = run_recipe(recipe(loop={"checkpointing": checkpointing}))
    assert folder_fingerprint(base) == before
    pipe: Any = load_base(base)
    adapter: Any = load_adapter(run / "instantid", pipe)
    adapter.check_fits(pipe.unet)
    assert (adapter.config.encoder, adapter.config.embedding_dim) == ("antelopev2", FEATURES)
    assert adapter.identitynet is not None
    resolved = json.loads((run / "resolved.json").read_text())
    assert set(resolved["trained"]) == {"projector", "cross_attention", "identitynet"}


def test_every_trained_number_gets_a_gradient_and_the_base_none(recipe: Any) -> None:
    objective = build_objective(load_recipe(recipe(both_drop=0.0, identity_drop=0.0)))
    loss, figures = objective.loss(KEY)
    loss.backward()
    assert figures["mse"] > 0
    touched = {name for name, p in objective.trained.named_parameters() if p.grad is not None}
    assert touched == {name for name, _ in objective.trained.named_parameters()}
    model: Any = objective
    assert all(p.grad is None for p in model.unet.parameters())
    batch = model.data.batch(KEY)
    people = model.conditions(batch)
    assert people.shape == (4, 4, model.unet.config["cross_attention_dim"])
    assert not torch.equal(people[0], people[1])


def test_photos_are_cut_around_the_face_and_keypoints_follow(dataset: Path) -> None:
    photos = PairedPhotos(dataset, (64, 64))
    assert photos.encoder == "antelopev2" and photos.descriptors.shape == (6, FEATURES)
    lefts = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert photos.draw_reference(3, rng) == 2
        picture, points = photos.picture(3, rng)
        assert picture.shape == (64, 64, 3)
        assert points[0, 0] < points[1, 0], "left in the picture comes first, mirrored or not"
        for x, y in points:  # a white pixel on the face's even colour
            near = picture[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].astype(int).sum(axis=2)
            assert near.max() > 500
        scale = 64 / 130
        width, height = (FACE[2] - FACE[0]) * scale, (FACE[3] - FACE[1]) * scale
        skin = (picture.astype(int) - [200, 150, 120]).__abs__().sum(axis=2) < 60
        assert abs(int(skin.sum()) - width * height) < 0.15 * width * height, "all of the face is there"
        lefts.add(round(float(points[0, 0])))
    assert len(lefts) > 5
    picture, points = PairedPhotos(dataset, (64, 64), "face").picture(3, np.random.default_rng(0))
    assert picture.shape == (64, 64, 3) and abs(float(points[:2, 1].mean()) - 0.47 * 64) < 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": None, "size": 64}, "size and crop are of a dataset"),
        ({"labeler": "somewhere"}, "leave labeler out"),
        ({"face_descriptor": "dlib", "drawn": 0.5}, "set drawn to 0"),
        ({"dataset": "nowhere"}, "idpersona dataset build"),
        ({"widht": 64}, "did you mean width"),
    ],
)
def test_what_does_not_go_together_is_refused(change: dict[str, Any], says: str, recipe: Any) -> None:
    with pytest.raises(BadInput, match=says):
        build_objective(load_recipe(recipe(**change)))


def test_a_dataset_that_is_not_whole_is_refused(dataset: Path, tmp_path: Path) -> None:
    for name in ("metadata.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text((dataset / name).read_text())
    with pytest.raises(BadInput, match="embeddings of 0 encoders"):
        PairedPhotos(tmp_path, (64, 64))
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(BadInput, match="no two photos of one person"):
        PairedPhotos(tmp_path, (64, 64))
    pair = {"reference": "gone.png", "target": "0.png", "identity": "id-0", "distance": 0.1}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    with pytest.raises(BadInput, match="not in its table"):
        PairedPhotos(tmp_path, (64, 64))


def test_a_full_size_training_is_planned_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(find_recipe("instantid-sdxl"), processes=8)
    parts = {name.split(".")[0] for name in found.trained}
    assert parts == {"projector", "cross_attention", "identitynet"}
    # SDXL has 70 cross-attention layers with a key and a value projection each.
    assert sum(name.startswith("cross_attention") for name in found.trained) == 140
    of_net = sum(
        int(np.prod(shape)) for name, shape in found.trained.items() if name.startswith("identitynet")
    )
    assert of_net == 1_251_014_160, "as the published one"
    assert found.rows == 4
    assert found.memory("fsdp") < found.memory("ddp") / 2
    assert main(["train", "instantid-sdxl", "--plan", "--processes", "8"]) == 0
    assert "identitynet: 844 trained tensors, 1251.0 M" in capsys.readouterr().out


def test_a_plan_follows_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = find_recipe("instantid-sd15")
    plain = plan(recipe)
    smaller = recipe.loop.model_copy(update={"checkpointing": True, "accumulate": 4})
    eight_bit = recipe.optimiser.model_copy(update={"eight_bit": True})
    less = plan(recipe.model_copy(update={"loop": smaller, "optimiser": eight_bit}))
    assert less.activations[1] < plain.activations[1] / 3
    assert (plain.rows, less.rows) == (64, 16)
    assert less.state["moments"] == plain.state["moments"] / 4
    assert less.memory("ddp") < plain.memory("ddp") / 4
    with pytest.raises(BadInput, match="does not divide"):
        plan(recipe, processes=7)
    assert main(["train", "wplus-1", "--plan"]) == 2
    assert "instantid on sd15 or sdxl" in capsys.readouterr().err


def test_photos_of_the_embedded_model_are_for_bases_of_its_size(recipe: Any) -> None:
    with pytest.raises(BadInput, match="name a dataset"):
        build_objective(load_recipe(recipe(dataset=None)))


def test_a_base_in_half_precision_draws_and_tells_alike(base: Path) -> None:
    model = LatentModel.open(base, dtype="bf16")
    with model.drawing():
        drawn: Any = model.pipe("a person", num_inference_steps=1, height=64, width=64)
    assert np.isfinite(np.asarray(drawn.images[0])).all()
    # In autocast first, or outside of it: what is kept is the same.
    told = [LatentModel.open(base), LatentModel.open(base)]
    with torch.autocast("cpu", torch.bfloat16):
        within = told[0].tell(["a person"]).text
    assert within.dtype == torch.float32 and torch.equal(within, told[1].tell(["a person"]).text)
