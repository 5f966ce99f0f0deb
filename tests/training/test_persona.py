"""A persona from a handful of photos: what learns, what each identity loss sees, what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file

from idpersona.errors import BadInput, MissingWeights
from idpersona.pipelines import load_base
from idpersona.training.config import load_recipe
from idpersona.training.keyed import StepKey
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.denoising import Schedule, denoise
from idpersona.training.objectives.face_reader import FaceReader, contrast, portrait, triplet
from idpersona.training.run import run_recipe

PHOTOS = ["sample:person-1", "sample:person-2"]
KEY = StepKey(0, 0, range(4), 4)


@pytest.fixture(scope="module")
def write(recipe_writer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def made(**changes: Any) -> Path:
        objective = {"kind": "persona", "base": "mini", "photos": PHOTOS, "crop": "face"}
        objective |= {"class_pictures": 2, "class_steps": 8, "rank": 2} | changes
        loop = {"steps": 2, "batch_size": 4}
        return recipe_writer(tmp_path_factory.mktemp("persona"), "persona", objective, loop=loop)

    return made


def build(path: Path) -> Any:
    torch.manual_seed(0)
    recipe = load_recipe(path)
    objective: Any = build_objective(recipe)
    objective.begin(Path(recipe.output))
    return objective


@pytest.mark.parametrize("identity", ["none", "portrait", "triplet", "contrast"])
def test_the_lora_learns_and_nothing_else(write: Any, identity: str) -> None:
    objective = build(write(identity=identity))
    loss, figures = objective.loss(KEY)
    loss.backward()
    assert {"mse", "prior"} <= figures.keys() and ("unlike" in figures) == (identity != "none")
    touched = {n for n, p in objective.model.unet.named_parameters() if p.grad is not None}
    assert touched and all("lora_" in name for name in touched)
    assert {f"module.{n}" for n in touched} == {
        n for n, p in objective.trained.named_parameters() if p.requires_grad
    }
    assert set(objective.trained.state_dict()) == touched
    others = [objective.model.pipe.vae, objective.model.pipe.text_encoder]
    assert all(p.grad is None for part in others for p in part.parameters())


def test_class_pictures_are_shared(write: Any, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    first = build(write(class_folder=str(folder)))
    drawn = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(drawn) == 2 and not (first.output / "class").exists()
    second = build(write(class_folder=str(folder)))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == drawn
    assert [p.picture.tobytes() for p in second.prior] == [p.picture.tobytes() for p in first.prior]


@pytest.mark.parametrize(
    ("field", "value"), [("class_prompt", "a photo of a man"), ("class_steps", 4), ("class_guidance", 2.0)]
)
def test_class_pictures_of_another_kind_are_refused(
    write: Any, tmp_path: Path, field: str, value: Any
) -> None:
    folder = str(tmp_path / "people")
    build(write(class_folder=folder, class_pictures=1))
    with pytest.raises(BadInput, match=rf"0000\.png was drawn with another {field.removeprefix('class_')}:"):
        build(write(class_folder=folder, **{field: value}))


def test_class_pictures_that_are_not_ours_are_refused(write: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "0000.png")
    with pytest.raises(BadInput, match=r"class pictures: .*0000.png carries no settings"):
        build(write(class_folder=str(tmp_path)))


def test_a_run_ends_in_a_lora_that_the_pipeline_loads(write: Any) -> None:
    output = run_recipe(write())
    assert len(list((output / "class").glob("*.png"))) == 2
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a photo of sks person", num_inference_steps=2, generator=generator, output_type="latent"
        ).images

    plain = draw()
    for place in (output / "lora", output / "checkpoints" / "step-2"):
        pipe.load_lora_weights(place)
        assert not torch.equal(draw(), plain)
        pipe.unload_lora_weights()
    average = load_file(output / "checkpoints" / "step-2" / "ema.safetensors")
    assert average and all("lora_" in name for name in average), "frozen weights are not kept"
    again = run_recipe(write(), output=output, resume=True)
    assert again == output


def test_where_the_face_is_looked_for(write: Any) -> None:
    aligned, detected = (build(write(align=align)) for align in ("target", "detect"))
    assert float(aligned.loss(KEY)[1]["unlike"]) > 0
    # At these noise levels there is no face to be found, or one: never an error.
    assert float(detected.loss(KEY)[1]["unlike"]) >= 0


def test_identity_losses() -> None:
    faces, others = (
        F.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0]])),
        F.normalize(torch.tensor([[0.0, -1.0]])),
    )
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert torch.allclose(portrait(faces, faces), torch.zeros(2), atol=1e-6)
    assert portrait(faces, wanted)[1] == 1
    apart = others.expand_as(faces)
    strict = triplet(faces, wanted, apart, 1.0)
    assert not bool(strict.any()), "further from the others than the margin"
    near = wanted.roll(1, 1)
    assert triplet(faces, wanted, near, 1.0)[1] > triplet(faces, wanted, near, 0.3)[1] > 1
    assert triplet(faces, wanted, near, 0.3)[0] == 0 < triplet(faces, wanted, near, 1.0)[0]
    told = contrast(faces, wanted, others, 0.1)
    assert told[0] < told[1]


def test_both_kinds_of_bases() -> None:
    latents, times = torch.randn(4, 4, 8, 8), torch.tensor([10, 300, 600, 900])
    for kind in ("epsilon", "v_prediction"):
        schedule = Schedule(
            {
                "beta_schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "prediction_type": kind,
            }
        )
        wanted = denoise(lambda noisy, _: noisy, latents, times, KEY, schedule).target
        step = denoise(lambda _noisy, _t, w=wanted: w, latents, times, KEY, schedule)
        assert torch.allclose(step.estimate(), latents, atol=1e-3) and float(step.loss(5.0)) == 0
        moved = denoise(lambda noisy, _: noisy, latents, times, KEY, schedule, noise_offset=0.1).noisy
        shift = (moved - step.noisy).flatten(2)
        assert float(shift.std(dim=2).max()) < 1e-6 and float(shift.abs().max()) > 1e-3
    with pytest.raises(BadInput, match="predict sample"):
        Schedule({"prediction_type": "sample"})


def test_what_is_missing_is_said(write: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs other people"):
        build(write(identity="triplet", class_pictures=0))
    with pytest.raises(MissingWeights, match="no face network"):
        FaceReader.open(str(tmp_path / "none.pth"))
    with pytest.raises(BadInput, match="no photos in"):
        build(write(photos=str(tmp_path)))


def test_person_and_class_come_in_turn_in_batches_of_one(write: Any) -> None:
    objective = build(write())
    seen = [set(objective.loss(StepKey(0, step, range(1), 1))[1]) & {"mse", "prior"} for step in range(4)]
    assert seen == [{"mse"}, {"prior"}] * 2


def test_a_bank_of_others_is_read_photo_by_photo(write: Any, tmp_path: Path) -> None:
    from PIL import Image

    from idpersona.images import open_photo

    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    with pytest.raises(BadInput, match=r"objective\.bank: no face is found in the photos"):
        build(write(identity="contrast", bank=str(tmp_path)))
    for n in (3, 4):
        open_photo(f"sample:person-{n}").save(tmp_path / f"{n}.png")
    objective = build(write(identity="contrast", bank=str(tmp_path), class_pictures=0))
    assert objective.others.shape == (2, 128) and "unlike" in objective.loss(KEY)[1]
    with pytest.raises(BadInput, match=r"objective\.bank: .*none is no folder"):
        build(write(identity="contrast", bank=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"targets": ["to_k", "attn3.to_k"]}, r"called attn3\.to_k"), ({"size": 100}, "take 96x96")],
)
def test_what_the_base_cannot_do_is_said_at_once(write: Any, changes: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        build(write(**changes))
