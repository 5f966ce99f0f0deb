"""The autoencoder, the attribute classifiers and the judge: a few real steps, export, stock classes again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from safetensors.torch import load_file

from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import MissingWeights
from idpersona.pixels import shrink, to_tensor
from idpersona.training.config import load_recipe
from idpersona.training.data.faces import FaceData
from idpersona.training.data.labels import label_unknown
from idpersona.training.data.pictures import jitter
from idpersona.training.data.split import half_of_people
from idpersona.training.keyed import StepKey
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.autoencoder import reconstruction_loss
from idpersona.training.objectives.latent_descriptor import corrupt
from idpersona.training.run import run_recipe

VAE = {"kind": "autoencoder", "channels": 8, "latent_channels": 4}
VAE |= {"encoder_blocks": [0, 1, 1, 1], "decoder_blocks": [1, 1, 1, 1]}
JUDGE = {"kind": "identity-judge", "dim": 16, "widths": [8, 8, 8, 8], "blocks": 1}


def test_the_autoencoder_loads_in_the_stock_class_with_latents_of_unit_spread(vae_run):
    vae = AutoencoderTiny.from_pretrained(vae_run / "vae")
    assert "block_out_channels" not in json.loads((vae_run / "vae" / "config.json").read_text())
    faces = FaceData.open("train")
    pictures = to_tensor([faces.framed(row) for row in range(len(faces))])
    with torch.no_grad():
        latents = vae.encode(pictures).latents
        assert vae.decode(latents).sample.shape == pictures.shape
    assert latents.shape[1:] == (4, 16, 16)
    assert float(latents.std() * vae.config["scaling_factor"]) == pytest.approx(1, abs=0.25)


def test_the_exported_autoencoder_is_the_average(vae_run):
    exported = load_file(vae_run / "vae" / "diffusion_pytorch_model.safetensors")
    average = load_file(vae_run / "checkpoints" / "step-3" / "ema.safetensors")
    assert exported.keys() == average.keys()
    assert all(torch.equal(exported[k], average[k]) for k in average)


def test_a_frozen_encoder_stays_and_the_decoder_learns(vae_run, tmp_path, recipe_writer):
    objective = VAE | {"freeze_encoder": True}
    path = recipe_writer(tmp_path, "decoder", objective, init_from=str(vae_run / "vae"))
    run = run_recipe(path)
    before = load_file(vae_run / "vae" / "diffusion_pytorch_model.safetensors")
    after = load_file(run / "checkpoints" / "step-3" / "weights.safetensors")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("encoder."), name


def test_initial_weights_come_from_the_seed(cache, tmp_path, recipe_writer):
    states = []
    for number, seed in enumerate((7, 7, 8)):
        torch.manual_seed(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        run = run_recipe(recipe_writer(folder, "vae", VAE, loop={"steps": 1, "seed": seed}))
        states.append(load_file(run / "checkpoints" / "step-1" / "weights.safetensors"))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_reconstruction_loss_is_zero_for_the_picture_itself_and_sees_a_lost_edge():
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 8:] = 1
    assert reconstruction_loss(picture, picture)[0] == 0
    flat = torch.full_like(picture, 0.5)
    with_edges, l1 = reconstruction_loss(flat, picture)
    shifted, same = reconstruction_loss(picture + 0.5, picture)
    assert l1 == same == pytest.approx(0.5)
    assert with_edges > shifted


def test_a_missing_start_is_told_at_once(cache, tmp_path, recipe_writer):
    path = recipe_writer(tmp_path, "vae", VAE, init_from=str(tmp_path / "none"))
    with pytest.raises(MissingWeights, match="idpersona train mini-vae"):
        run_recipe(path)


def test_the_classifier_says_its_labels_and_how_good_it_is(labeler_run):
    network = SmallFaceCNN.from_pretrained(labeler_run / "model").eval()
    faces = FaceData.open("validation")
    assert tuple(network.config["labels"]) == faces.attribute_names
    said = network.config["metrics"]["validation_balanced_accuracy"]
    assert said.keys() <= set(faces.attribute_names)
    with torch.no_grad():
        logits = network(to_tensor([shrink(faces.framed(row)) for row in range(len(faces))]))
    assert logits.shape == (len(faces), len(faces.attribute_names))
    for name, accuracy in said.items():
        truth = faces.attributes[:, faces.attribute_names.index(name)] == 1
        hits = (logits[:, faces.attribute_names.index(name)] > 0).numpy() == truth
        assert accuracy == pytest.approx((hits[truth].mean() + hits[~truth].mean()) / 2, abs=1e-3)


def test_the_two_classifiers_see_different_people(cache, tmp_path, recipe_writer):
    seen = []
    for half in (0, 1):
        path = recipe_writer(tmp_path, f"half{half}", {"kind": "attributes", "half": half})
        objective = build_objective(load_recipe(path))
        drawn = {objective._sample(np.random.default_rng(s))[1] for s in range(60)}
        faces = FaceData.open("train")
        seen.append({str(faces.identities[row]) for row in drawn})
        assert (faces.attributes[sorted(drawn)] >= 0).all()
        assert half_of_people(np.array(sorted(seen[-1])), half).all()
    assert seen[0] and seen[1] and not seen[0] & seen[1]


def test_the_judge_learns_people_with_several_photos_only(cache, tmp_path, recipe_writer):
    path = recipe_writer(tmp_path, "judge", JUDGE)
    objective = build_objective(load_recipe(path))
    faces = FaceData.open("train")
    people = {str(faces.identities[row]) for row in objective.rows}
    counts = {p: int((faces.identities == p).sum()) for p in set(faces.identities.tolist())}
    assert people == {p for p, count in counts.items() if count > 1}
    run = run_recipe(path)
    network = SmallFaceCNN.from_pretrained(run / "model").eval()
    assert network.config["task"] == "identity"
    # What tells the training people apart is not part of the judge.
    assert not any("centre" in name for name in load_file(next((run / "model").glob("*.safetensors"))))
    metrics = network.config["metrics"]
    held_out = FaceData.open("validation").identities
    pairs = sum(int((held_out == p).sum() * ((held_out == p).sum() - 1) / 2) for p in set(held_out.tolist()))
    assert metrics["pairs"] == 2 * pairs
    assert 0 <= metrics["auc"] <= 1 and 0.5 <= metrics["accuracy"] <= 1


def test_the_judge_learns_what_it_is_shown(cache, tmp_path, recipe_writer):
    steps = {"steps": 25, "batch_size": 16, "ema_decay": 0.5, "save_every": 100}
    optimiser = {"lr": 0.005, "warmup_steps": 5}
    path = recipe_writer(tmp_path, "judge", JUDGE | {"margin": 0.0}, loop=steps, optimiser=optimiser)
    torch.manual_seed(0)
    objective = build_objective(load_recipe(path))
    keys = [StepKey(1, step, range(32), 32) for step in range(2)]
    with torch.no_grad():
        before = np.mean([float(objective.loss(key)[0]) for key in keys])
    from idpersona.training.loop import train

    train(load_recipe(path), objective)
    with torch.no_grad():
        after = np.mean([float(objective.loss(key)[0]) for key in keys])
    assert after < 0.8 * before


def test_the_labeler_fills_in_where_it_is_sure_and_nothing_else(cache, tmp_path):
    faces = FaceData.open("train")
    network = SmallFaceCNN(out_dim=len(faces.attribute_names), widths=(8, 8, 8, 8))
    head = network.head[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias[:] = torch.tensor([(5.0, -5.0, 1.0, -1.0)[i % 4] for i in range(len(head.bias))])
    network.save_pretrained(tmp_path)
    labelled = label_unknown(faces, tmp_path)
    unknown = faces.attributes < 0
    assert unknown.any() and not unknown.all()
    assert np.array_equal(labelled[~unknown], faces.attributes[~unknown])
    says = np.array([(1, 0, -1, -1)[i % 4] for i in range(len(head.bias))])
    assert np.array_equal(labelled[unknown], np.broadcast_to(says, unknown.shape)[unknown])
    assert np.array_equal(label_unknown(faces, None), faces.attributes)
    with pytest.raises(MissingWeights, match="idpersona train labeler"):
        label_unknown(faces, tmp_path / "none")


def test_jitter_keeps_size_and_kind_and_changes_something():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for seed in range(20):
        changed = jitter(picture, np.random.default_rng(seed))
        assert changed.shape == picture.shape and changed.dtype == np.uint8
        assert np.array_equal(changed, jitter(picture, np.random.default_rng(seed)))
        assert not np.array_equal(changed, picture)


def test_the_reader_learns_who_is_in_the_latents(vae_run, tmp_path, recipe_writer):
    settings = {"kind": "latent-descriptor", "vae": str(vae_run / "vae"), "widths": [8, 8, 8], "blocks": 1}
    loop = {"steps": 25, "batch_size": 16, "ema_decay": 0.5, "save_every": 100}
    path = recipe_writer(tmp_path, "reader", settings, loop=loop, optimiser={"lr": 0.01, "warmup_steps": 5})
    objective = build_objective(load_recipe(path))
    key = StepKey(1, 0, range(32), 32)
    with torch.no_grad():
        before = float(objective.loss(key)[0])
    run = run_recipe(path)
    network = SmallFaceCNN.from_pretrained(run / "model").eval()
    assert network.config["task"] == "descriptor"
    assert -1 <= network.config["metrics"]["validation_cosine"] <= 1
    objective.trained.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert float(objective.loss(key)[0]) < 0.8 * before
    assert all(p.grad is None for p in objective.latents.parameters())


def test_every_other_latent_is_spoilt_and_the_same_way_each_time():
    latents = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    key = StepKey(0, 3, range(64), 64)
    spoilt = corrupt(latents, key)
    changed = (spoilt != latents).flatten(1).any(1)
    assert 20 < int(changed.sum()) < 44
    assert torch.equal(spoilt, corrupt(latents, key))
    assert torch.equal(spoilt[32:], corrupt(latents[32:], StepKey(0, 3, range(32, 64), 64)))
