"""Adapters trained on a base that stays: what learns, what each method's losses see, what comes out."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ViTMAEModel

from idpersona.adapters import load_adapter
from idpersona.adapters.wplus.adapter import WPlus
from idpersona.cli.main import main
from idpersona.encoders.style import StyleDecoder, StyleEncoder
from idpersona.errors import BadInput, MissingWeights
from idpersona.pixels import to_tensor
from idpersona.seams.latent import Told
from idpersona.training.config import load_recipe
from idpersona.training.data.faces import FaceData
from idpersona.training.directions import NAMES, add_directions, find_directions
from idpersona.training.keyed import StepKey
from idpersona.training.latents import Latents
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.likeness import shaken
from idpersona.training.objectives.wplus import STAGE_1_PROMPT
from idpersona.training.publish import (
    LOCAL_GAIN,
    publish_anymaker,
    publish_lora,
    publish_style,
    publish_trained,
    publish_vit,
)
from idpersona.training.run import run_recipe

METHODS = ("instantid", "infinite-id", "wplus", "anymaker")
PARTS = {
    "instantid": {"projector", "cross_attention", "identitynet"},
    "infinite-id": {"mapper", "cross_attention"},
    "wplus": {"mapper", "cross_attention"},
    "anymaker": {"mapper", "cross_attention", "decoupler", "reader"},
}


def build(path):
    torch.manual_seed(0)
    return build_objective(load_recipe(path))


KEY = StepKey(0, 0, range(8), 8)


@pytest.mark.parametrize("method", METHODS)
def test_the_adapter_learns_and_the_base_does_not(method, recipe_of):
    objective = build(recipe_of(method))
    loss, figures = objective.loss(KEY)
    loss.backward()
    assert {"mse", "unlike", "unlike_drawn"} <= figures.keys()
    assert all(math.isfinite(value) for value in figures.values())
    touched = {name for name, p in objective.trained.named_parameters() if p.grad is not None}
    assert touched == {name for name, _ in objective.trained.named_parameters()}
    assert {name.split(".")[0] for name in touched} == PARTS[method]
    frozen = [part for part in objective.model.pipe.components.values() if isinstance(part, nn.Module)]
    reader = getattr(objective.likeness, "reader", None)
    assert all(p.grad is None for part in [*frozen, reader] if part for p in part.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_what_comes_out_is_an_adapter_of_the_base(method, trained, diffusion_run):
    run = trained(method)
    pipe = StableDiffusionPipeline.from_pretrained(diffusion_run / "base")
    adapter = load_adapter(run / method, base=pipe)
    assert adapter.name == method
    assert set(adapter.parts) == PARTS[method] - {"decoupler", "reader"}
    checkpoint: Any = load_adapter(run / "checkpoints" / "step-2", base=pipe)
    for name, part in adapter.parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, checkpoint.parts[name].state_dict()[key])
    average = load_file(run / "checkpoints" / "step-2" / "ema.safetensors")
    for name, part in adapter.parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, average[f"{name}.{key}"])


@pytest.mark.parametrize("method", ["instantid", "wplus"])
def test_a_checkpoint_is_exported_as_it_is(method, trained, diffusion_run, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(diffusion_run / "base")
    checkpoint = load_adapter(trained(method) / "checkpoints" / "step-2", base=pipe)
    done = checkpoint.save_published(tmp_path / "out")
    again: Any = load_adapter(done.folder, base=pipe, **done.fields)
    assert again.config_dict() == checkpoint.config_dict()
    for name, part in checkpoint.parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(again.parts[name].state_dict()[key], value)
    assert main(["export", str(trained(method)), "-o", str(tmp_path / "no")]) == 2  # a run is no adapter
    step = trained(method) / "checkpoints" / "step-2"
    assert main(["export", str(step), "-o", str(tmp_path / "command")]) == 0
    for file in done.folder.rglob("*.*"):
        assert (tmp_path / "command" / file.relative_to(done.folder)).read_bytes() == file.read_bytes()


def kept_bytes(objective) -> int:
    """Of all that a step keeps for its backward pass; parameters and inputs counted as often as they are."""
    sizes = []

    def pack(value):
        sizes.append(value.numel() * value.element_size())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss, _ = objective.loss(KEY)
    loss.backward()
    return sum(sizes)


@pytest.mark.parametrize("method", METHODS)
def test_activations_computed_twice_give_the_same_gradients(method, recipe_of):
    objective = build(recipe_of(method, drawn=0.5, drawn_from=0))
    gradients, kept = [], []
    for again in (False, True):
        if again:
            objective.checkpoint_activations()
        kept.append(kept_bytes(objective))
        gradients.append(
            {n: p.grad.clone() for n, p in objective.trained.named_parameters() if p.grad is not None}
        )
        objective.trained.zero_grad()
    plain, computed = gradients
    assert plain.keys() == computed.keys() and any(bool(g.any()) for g in plain.values())
    for name, gradient in plain.items():
        assert torch.allclose(gradient, computed[name], atol=1e-6, rtol=1e-4), name
    assert kept[1] < kept[0] / 2
    loss, _ = objective.loss(KEY)  # nothing is left in the layers
    loss.backward()


@pytest.mark.parametrize("method", METHODS)
def test_people_decide_the_prediction_and_nobody_is_zeros(method, recipe_of):
    objective = build(recipe_of(method, identity_drop=0.0, both_drop=0.0))
    batch = objective.data.batch(KEY)
    people = objective.conditions(batch)
    assert people.shape[0] == 8 and bool((people[0] != people[1:]).any())
    nobody = dataclasses.replace(batch, somebody=torch.zeros(8, dtype=torch.bool))
    told = objective.conditions(nobody)
    assert torch.equal(told, told[:1].expand_as(told))


def test_the_identity_loss_in_pixels_looks_where_the_face_is(recipe_of):
    wanted = {"latent_descriptor": None, "face_descriptor": "dlib"}
    built = build(recipe_of("instantid", **wanted))
    loss, figures = built.loss(KEY)
    loss.backward()
    assert {"mse", "unlike", "unlike_drawn"} <= figures.keys()
    assert {n for n, p in built.trained.named_parameters() if p.grad is not None} == set(
        dict(built.trained.named_parameters())
    )
    batch = built.data.batch(KEY)
    latents = built.model.encode(batch.pictures).requires_grad_()
    weight, points = torch.ones(8), batch.points
    assert float(built.likeness.to_photos(latents, latents, weight, points)) == pytest.approx(0, abs=1e-5)
    # Only what lies under the face passes a gradient.
    far = points.clone()
    far[:] = points - points.mean(dim=1, keepdim=True) + 24
    built.likeness.to_photos(latents, latents.detach().flip(0), weight, far / 3).backward()
    spread = latents.grad.abs().sum(dim=(0, 1))
    assert float(spread[:8, :8].sum()) > 0 and float(spread[12:, 12:].sum()) == 0
    with pytest.raises(BadInput, match="where a face is drawn"):
        build(recipe_of("wplus", **wanted))
    with pytest.raises(BadInput, match="not both"):
        build(recipe_of("instantid", face_descriptor="dlib"))


def test_infinite_id_is_trained_without_the_text(recipe_of):
    objective = build(recipe_of("infinite-id"))
    batch = objective.data.batch(KEY)
    noisy, times = torch.randn(8, 4, 16, 16), torch.full((8,), 500)
    people = objective.conditions(batch)
    with torch.no_grad():
        text = objective.encode(batch)
        one = objective.predict(noisy, times, text, people)
        assert torch.equal(one, objective.predict(noisy, times, Told(torch.zeros_like(text.text)), people))
        assert not torch.allclose(one, objective.predict(noisy, times, text, people.flip(0)))


def test_wplus_has_one_prompt_and_then_captions(recipe_of, trained):
    batch = (first := build(recipe_of("wplus"))).data.batch(KEY)
    assert set(first.captions(batch)) == {STAGE_1_PROMPT if text else "" for text in batch.texts}
    assert [bool(text) for text in first.captions(batch)] == [bool(text) for text in batch.texts]
    start = trained("wplus") / "wplus"
    second = build(recipe_of("wplus", stage=2, init_from=str(start)))
    assert second.captions(batch) == batch.texts
    loss, figures = second.loss(KEY)
    loss.backward()
    assert figures["entangled"] > 0 and figures["unpreserved"] > 0
    learns = {n.split(".")[0] for n, p in second.trained.named_parameters() if p.grad is not None}
    assert learns == {"cross_attention"}


def test_wplus_outside_of_the_face_is_told_by_the_keypoints(recipe_of):
    objective = build(recipe_of("wplus"))
    batch = objective.data.batch(KEY)
    faces = objective._faces(batch, 16)
    assert faces.shape == (8, 1, 16, 16) and 0 <= float(faces.min()) <= float(faces.max()) <= 1
    for face, points in zip(faces[:, 0], batch.points, strict=True):
        x, y = (points[2] / 8).long().clamp(0, 15)
        assert face[y, x] == 1 and face[0, 0] < 1


def test_anymaker_keeps_what_is_not_the_object_apart(recipe_of):
    objective = build(recipe_of("anymaker"))
    _, figures = objective.loss(KEY)
    assert figures["decoupled"] > 0 and 0 <= figures["contrast"] <= 0.5
    batch = objective.data.batch(KEY)
    text, places = objective.encode(batch)
    counts = places.sum(dim=(1, 2))
    assert places.shape == (*text.text.shape[:2], 1)
    for count, caption in zip(counts, batch.texts, strict=True):
        assert (count > 0) == bool(caption), caption


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_part_is_told_at_once(method, recipe_of, tmp_path):
    part = {"wplus": "style", "instantid": "labeler"}.get(method, "vit")
    with pytest.raises(MissingWeights, match="idpersona train"):
        build(recipe_of(method, **{part: str(tmp_path / "none")}))


@pytest.mark.parametrize(
    ("method", "change", "field"),
    [
        ("infinite-id", {"face_hidden": 8}, r"face_hidden 16, .* gives 8"),
        ("anymaker", {"depth": 0}, r"depth 2, .* gives 0"),
        ("wplus", {"tokens": 3}, r"groups \(3, 3\), .* gives \(2, 2, 2\)"),
    ],
)
def test_a_run_goes_on_with_its_own_sizes_only(method, change, field, recipe_of, trained):
    start = str(trained(method) / method)
    going_on = build(recipe_of(method, init_from=start))
    held = load_adapter(start).parts["mapper"].state_dict()
    assert all(torch.equal(value, held[name]) for name, value in going_on.adapter.mapper.state_dict().items())
    with pytest.raises(BadInput, match=field):
        build(recipe_of(method, init_from=start, **change))


def test_what_may_change_from_run_to_run(recipe_of, trained, tmp_path):
    """The delay is the recipe's; what no recipe sets stays as it was."""
    later = build(recipe_of("wplus", init_from=str(trained("wplus") / "wplus"), delay=0.25))
    assert later.adapter.config.delay == 0.25
    shutil.copytree(trained("infinite-id") / "infinite-id", tmp_path / "start")
    head = json.loads((tmp_path / "start" / "adapter.json").read_text())
    head["config"]["text"] = 0.5
    (tmp_path / "start" / "adapter.json").write_text(json.dumps(head))
    assert build(recipe_of("infinite-id", init_from=str(tmp_path / "start"))).adapter.config.text == 0.5


def test_directions_are_added_to_the_adapter(runs, vae_run, labeler_run, trained):
    adapter = trained("wplus") / "wplus"
    add_directions(adapter, runs["style"] / "encoder", labeler_run / "model", str(vae_run / "vae"))
    assert set(WPlus.from_pretrained(adapter).directions()) == set(NAMES)


def test_a_direction_is_what_one_attribute_adds_while_the_others_stay():
    rng = np.random.default_rng(0)
    names = sorted({attribute for attribute, _ in NAMES.values()})
    truth = rng.standard_normal((len(names), 12))
    answers = rng.standard_normal((4000, len(names)))
    # Two that often come together: explained one by one, each would take half of the other's effect.
    answers[:, 1] = 0.8 * answers[:, 0] + 0.6 * answers[:, 1]
    codes = (answers @ truth + 0.1 * rng.standard_normal((4000, 12))).reshape(4000, 3, 4)
    found = find_directions(codes, answers, names)
    for name, (attribute, sign) in NAMES.items():
        number = names.index(attribute)
        wanted = sign * truth[number] * answers[:, number].std()
        assert np.allclose(found[name].ravel(), wanted, atol=0.12), name
    with pytest.raises(BadInput, match="knows no attribute"):
        find_directions(codes, answers[:, :2], names[:2])


def test_the_vision_transformer_loads_in_the_stock_class(runs):
    model = ViTMAEModel.from_pretrained(runs["vit"] / "model").eval()
    assert (model.config.patch_size, model.config.hidden_size) == (32, 16)
    assert not any("decoder" in name for name in load_file(runs["vit"] / "model" / "model.safetensors"))


def test_the_style_autoencoder_makes_codes_and_latents(runs, vae_run):
    encoder = StyleEncoder.from_pretrained(runs["style"] / "encoder").eval()
    decoder = StyleDecoder.from_pretrained(runs["style"] / "decoder").eval()
    faces = FaceData.open("train")
    with torch.no_grad():
        latents = Latents(str(vae_run / "vae"))(to_tensor([faces.framed(0), faces.framed(1)]))
        codes = encoder(latents)
        assert codes.shape == (2, 6, 16)
        assert decoder(codes).shape == latents.shape


def test_a_lora_is_trained_on_photos_with_one_attribute(diffusion_run, labeler_run, recipe_writer, tmp_path):
    objective = {
        "kind": "lora",
        "base": str(diffusion_run / "base"),
        "labeler": str(labeler_run / "model"),
        "attribute": "Smiling",
        "caption": "a photo of a person",
        "photos": 4,
        "rank": 2,
    }
    made = build(recipe_writer(tmp_path, "lora", objective))
    known = [made.data.attributes[row]["Smiling"] for row in made.rows]
    assert known and all(known) and len(made.rows) <= 4
    run = run_recipe(tmp_path / "lora.yaml")
    pipe = StableDiffusionPipeline.from_pretrained(diffusion_run / "base")
    ids = torch.zeros(1, pipe.tokenizer.model_max_length, dtype=torch.long)
    context = pipe.text_encoder(ids)[0]
    with torch.no_grad():
        plain = pipe.unet(torch.ones(1, 4, 16, 16), 500, context).sample
        pipe.load_lora_weights(run / "lora")
        changed = pipe.unet(torch.ones(1, 4, 16, 16), 500, context).sample
    assert not torch.equal(plain, changed)
    with pytest.raises(BadInput, match="no photo has 'Nothing'"):
        build(recipe_writer(tmp_path, "lora", objective | {"attribute": "Nothing"}))


def test_what_is_published_is_half_and_loads_as_it_was(runs, trained, diffusion_run, tmp_path):
    from idpersona.encoders.vit import TokenModel

    pipe = StableDiffusionPipeline.from_pretrained(diffusion_run / "base")
    for method in METHODS:
        publish = publish_anymaker if method == "anymaker" else publish_trained
        publish(trained(method) / method, tmp_path / method)
        before, after = (load_adapter(place / method, base=pipe) for place in (trained(method), tmp_path))
        for name, part in after.parts.items():
            own = before.parts[name].state_dict()
            for key, value in part.state_dict().items():
                gain = LOCAL_GAIN if "to_v_loc" in key else 1.0
                assert torch.allclose(gain * own[key], value, atol=1e-3), key
    publish_vit(runs["vit"] / "model", tmp_path / "vit")
    publish_style(runs["style"] / "encoder", tmp_path / "style")
    vit = TokenModel("mini-vit", tmp_path / "vit")
    assert (vit.tokens, vit.dim) == (17, 16)
    assert vit.colours == TokenModel("mini-vit", runs["vit"] / "model").colours
    assert StyleEncoder.from_pretrained(tmp_path / "style").config["rows"] == 6
    save_file({"unet.a": torch.ones(2)}, tmp_path / "pytorch_lora_weights.safetensors")
    publish_lora(tmp_path, tmp_path / "lora")
    for file in tmp_path.rglob("*/*.safetensors"):
        assert {value.dtype for value in load_file(file).values() if value.is_floating_point()} == {
            torch.float16
        }


def test_shaking_moves_a_face_as_a_whole() -> None:
    points = torch.tensor([[[40.0, 50], [80, 48], [60, 70], [45, 90], [75, 91]]]).repeat(4, 1, 1)
    key = StepKey(0, 3, range(4), 4)
    assert torch.equal(shaken(points, key, 0), points)
    moved = shaken(points, key, 0.05)
    assert torch.equal(moved, shaken(points, key, 0.05)), "the key alone decides"
    assert not torch.allclose(moved[0], moved[1]), "each sample by itself"
    apart = torch.cdist(moved, moved) / torch.cdist(points, points).clamp(min=1e-6)
    off = ~torch.eye(5, dtype=torch.bool)
    for row in apart:
        torch.testing.assert_close(row[off], row[off].mean().expand(20), rtol=1e-4, atol=0)
    assert 0 < float((moved - points).abs().max()) < 0.2 * 40
    # No mirror image: the points go round in the same direction.
    one, other = moved[:, 1] - moved[:, 0], moved[:, 3] - moved[:, 0]
    assert bool((one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0] > 0).all())
