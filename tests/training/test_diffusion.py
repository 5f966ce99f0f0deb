"""Text-to-image training with InstantID: which weights move, resuming, the result in stock classes."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file

from idpersona.adapters import load_adapter
from idpersona.errors import BadInput, MissingWeights
from idpersona.identity import Feature, Identity
from idpersona.training.checkpoints import latest_checkpoint
from idpersona.training.config import load_recipe
from idpersona.training.keyed import StepKey
from idpersona.training.loop import train
from idpersona.training.objectives import build_objective, diffusion_data
from idpersona.training.objectives.denoising import loss_weight
from idpersona.training.run import run_recipe

BASE = {"unet", "text_encoder"}
ADAPTER = {"projector", "cross_attention", "identitynet"}


@pytest.fixture
def build(tmp_path, recipe_writer, diffusion_objective):
    """The tiny objective with changes, not yet trained."""

    def make(init_from=None, **changes):
        torch.manual_seed(0)
        path = recipe_writer(tmp_path, "mini", diffusion_objective | changes, init_from=init_from)
        return build_objective(load_recipe(path))

    return make


def touched(objective) -> set[str]:
    loss, figures = objective.loss(StepKey(0, 0, range(8), 8))
    loss.backward()
    assert math.isfinite(figures["mse"])
    return {name for name, p in objective.trained.named_parameters() if p.grad is not None}


def test_fresh_encoders_tell_prompts_and_people_apart(build):
    """Where these start nearly equal, training makes them equal, and the UNet follows neither."""
    objective = build()
    tokens = objective.base.tokenizer(
        ["a photo of a man", "a photo of a smiling woman"], padding="max_length", return_tensors="pt"
    ).input_ids
    descriptors = torch.from_numpy(objective.data.faces.descriptors)
    with torch.no_grad():
        one, other = objective.base.text_encoder(tokens)[0]
        people = objective.adapter.projector(descriptors)
    assert (one - other).norm() > 0.2 * one.norm()
    assert people.std(0).mean() > 0.2 * people.std()


def test_a_fresh_identitynet_can_tell_two_drawings_apart(build):
    """Its drawing encoder adds nothing yet, but what its last layer learns from depends on the drawing."""
    objective = build()
    encoder = objective.adapter.identitynet.controlnet_cond_embedding
    drawings = objective.data.batch(StepKey(0, 0, range(8), 8)).drawings
    seen = []
    handle = encoder.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        added = encoder(drawings)
    handle.remove()
    assert not added.any()
    assert float((seen[0][0] - seen[0][1]).std()) > 0.1
    assert 0.1 < float(seen[0].std()) < 2


def test_the_noisiest_steps_count_as_much_as_the_others():
    snr = torch.tensor([1e-3, 0.1, 1.0, 5.0, 50.0, 500.0])
    weight = loss_weight(snr, 5.0)
    assert torch.allclose(weight[:4], torch.ones(4))
    assert weight[4] == pytest.approx(6 / 51) and weight[5] < weight[4]


def test_sampling_starts_where_nothing_of_the_picture_is_left(diffusion_run):
    scheduler = DDIMScheduler.from_pretrained(diffusion_run / "base" / "scheduler")
    for steps in (4, 25, 50):
        scheduler.set_timesteps(steps)
        assert scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0


def test_everything_learns_and_nothing_else_does(build):
    objective = build()
    parameters = dict(objective.trained.named_parameters())
    assert touched(objective) == set(parameters)
    assert {name.split(".")[0] for name in parameters} == BASE | ADAPTER
    assert all(p.grad is None for p in objective.latents.parameters())


def test_without_identity_the_base_learns_alone(build):
    objective = build(identity=0)
    names = touched(objective)
    assert names == {name for name, _ in objective.trained.named_parameters()}
    assert {name.split(".")[0] for name in names} == BASE


def test_a_frozen_base_stays(build, diffusion_run, tmp_path):
    objective = build(init_from=str(diffusion_run), base=False)
    assert {name.split(".")[0] for name in touched(objective)} == ADAPTER
    recipe = load_recipe(tmp_path / "mini.yaml")
    objective.trained.zero_grad(set_to_none=True)
    train(recipe, objective)
    after = load_file(latest_checkpoint(tmp_path / "mini" / "checkpoints") / "weights.safetensors")
    before = load_file(diffusion_run / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, after[f"unet.{name}"]) for name, value in before.items())
    start = load_file(diffusion_run / "instantid" / "projector" / "diffusion_pytorch_model.safetensors")
    assert not torch.equal(start["latents"], after["projector.latents"])


def test_a_run_starts_where_the_other_ended(build, diffusion_run):
    objective = build(init_from=str(diffusion_run))
    average = load_file(diffusion_run / "checkpoints" / "step-3" / "ema.safetensors")
    state = objective.trained.state_dict()
    assert state.keys() == average.keys()
    assert all(torch.equal(value, state[name]) for name, value in average.items())


def test_what_it_starts_from_must_be_there(build, tmp_path):
    with pytest.raises(MissingWeights, match="idpersona train mini-vae"):
        build(vae=str(tmp_path / "none"))
    with pytest.raises(MissingWeights, match="idpersona train mini`"):
        build(init_from=str(tmp_path / "none"))
    with pytest.raises(BadInput, match="init_from"):
        build(base=False)


@pytest.fixture(scope="session")
def reader_run(vae_run, tmp_path_factory, recipe_writer):
    """A trained tiny reader of descriptors from latents."""
    objective = {"kind": "latent-descriptor", "vae": str(vae_run / "vae"), "widths": [8, 8, 8], "blocks": 1}
    return run_recipe(recipe_writer(tmp_path_factory.mktemp("runs"), "latent-descriptor", objective))


def test_the_identity_loss_adds_how_unlike_the_person_the_estimate_is(build, reader_run):
    reader = str(reader_run / "model")
    key = StepKey(0, 0, range(8), 8)
    plain, _ = build().loss(key)
    with_loss, figures = build(latent_descriptor=reader, likeness=0.3).loss(key)
    assert 0 < figures["unlike"] < 2
    assert float((with_loss - plain).detach()) == pytest.approx(0.3 * 4 / 8 * figures["unlike"], rel=1e-3)
    objective = build(latent_descriptor=reader)
    latents = objective.latents(objective.data.batch(key).pictures)
    weight, others = torch.ones(8), latents.roll(1, 0)
    likeness = objective.likeness
    assert float(likeness.to_photos(latents, latents, weight)) == pytest.approx(0, abs=1e-6)
    unlike = float(likeness.to_photos(others, latents, weight))
    assert unlike > 1e-4
    assert float(likeness.to_photos(others, latents, weight / 2)) == pytest.approx(unlike / 2)


def test_the_identity_loss_reaches_the_generator_and_not_the_reader(build, reader_run):
    objective = build(latent_descriptor=str(reader_run / "model"))
    latents = objective.latents(objective.data.batch(StepKey(0, 0, range(8), 8)).pictures)
    estimate = latents.roll(1, 0).requires_grad_()
    objective.likeness.to_photos(estimate, latents, torch.ones(8)).backward()
    assert float(estimate.grad.abs().max()) > 0
    assert touched(objective) == {name for name, _ in objective.trained.named_parameters()}
    reader = objective.likeness.reader
    assert not reader.training
    assert all(p.grad is None for p in reader.parameters())


def test_likeness_to_descriptors_knows_the_descriptor_and_nobody(build, reader_run):
    objective = build(latent_descriptor=str(reader_run / "model"))
    likeness = objective.likeness
    latents = objective.latents(objective.data.batch(StepKey(0, 0, range(8), 8)).pictures)
    with torch.no_grad():
        wanted = likeness.reader(latents).float() + likeness.mean
    weight = torch.ones(8)
    assert float(likeness.to_descriptors(latents, wanted, weight)) == pytest.approx(0, abs=1e-5)
    away = likeness.to_descriptors(latents, wanted.roll(1, 0), weight)
    assert float(away) > 1e-4
    assert float(likeness.to_descriptors(latents, torch.zeros_like(wanted), weight)) == 0
    nobody_first = torch.cat([torch.zeros_like(wanted[:4]), wanted.roll(1, 0)[4:]])
    last = likeness.to_descriptors(latents[4:], wanted.roll(1, 0)[4:], weight[4:])
    # The untrained reader tells people apart by a ten-thousandth only, and 1 - cosine is rounded to 6e-8.
    half = pytest.approx(float(last) / 2, rel=1e-6, abs=1e-7)
    assert float(likeness.to_descriptors(latents, nobody_first, weight)) == half


def test_own_drawings_add_how_unlike_they_are(build, reader_run):
    reader, key = str(reader_run / "model"), StepKey(0, 0, range(8), 8)
    plain, _ = build(latent_descriptor=reader, likeness=0.3).loss(key)
    objective = build(latent_descriptor=reader, likeness=0.3, drawn=0.25)
    with_drawings, figures = objective.loss(key)
    added = float((with_drawings - plain).detach())
    assert 0 < figures["unlike_drawn"] < 2
    assert added == pytest.approx(0.3 * 2 / 8 * figures["unlike_drawn"], rel=1e-3)
    later = build(latent_descriptor=reader, drawn=0.25, drawn_from=3)
    assert "unlike_drawn" not in later.loss(StepKey(0, 2, range(8), 8))[1]
    assert "unlike_drawn" in later.loss(StepKey(0, 3, range(8), 8))[1]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_own_drawings_alone_teach_the_generator(build, reader_run, precision):
    """The way to the step where they are judged records nothing, and must not hide the weights from it."""
    objective = build(latent_descriptor=str(reader_run / "model"), drawn=0.5)
    batch = objective.data.batch(StepKey(0, 1, range(8), 8)).of_share(0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        drawn = objective.draw(batch, objective.latents(batch.pictures).shape[1:])
        weight = torch.ones(batch.people)
        objective.likeness.to_descriptors(drawn.estimate(), batch.descriptors, weight).backward()
    moved = {n for n, p in objective.trained.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in objective.trained.named_parameters()}
    assert all(float(p.grad.abs().max()) > 0 for p in objective.base.unet.conv_out.parameters())
    assert drawn.alpha.unique().numel() == 1
    assert 0 < float(drawn.alpha[0]) < 1


def test_own_drawings_begin_at_the_same_step_in_every_process(build, reader_run):
    objective = build(latent_descriptor=str(reader_run / "model"), drawn=0.5)
    whole = objective.data.batch(StepKey(0, 3, range(16), 16)).of_share(0.5)
    half = objective.data.batch(StepKey(0, 3, range(8, 16), 16)).of_share(0.5)
    assert whole.key.indices == [0, 1, 2, 3, 8, 9, 10, 11]
    assert half.key.indices == [8, 9, 10, 11]
    shape = objective.latents(half.pictures).shape[1:]
    with torch.no_grad():
        together, alone = objective.draw(whole, shape), objective.draw(half, shape)
    assert torch.equal(together.alpha[4:], alone.alpha)
    assert torch.allclose(together.estimate()[4:], alone.estimate(), atol=1e-4)


def test_own_drawings_need_people_and_a_reader(build, reader_run):
    with pytest.raises(BadInput, match="drawn needs latent_descriptor"):
        build(drawn=0.25)
    with pytest.raises(BadInput, match="drawn cannot exceed identity"):
        build(latent_descriptor=str(reader_run / "model"), drawn=0.75)


def test_a_missing_reader_names_the_recipe_that_makes_it(build, tmp_path):
    with pytest.raises(MissingWeights, match="idpersona train latent-descriptor"):
        build(latent_descriptor=str(tmp_path / "none"))


@pytest.mark.parametrize("size", [8, 16])
def test_the_mean_over_two_processes_shares_is_the_whole_batchs_loss(build, size):
    objective = build()
    with torch.no_grad():
        whole = float(objective.loss(StepKey(0, 5, range(size), size))[0])
        halves = [
            float(objective.loss(StepKey(0, 5, range(start, start + size // 2), size))[0])
            for start in (0, size // 2)
        ]
    assert np.mean(halves) == pytest.approx(whole, rel=1e-5)


def test_somebody_matters_to_the_rows_with_a_person_only(build):
    objective = build()
    with torch.no_grad():
        for name, value in objective.adapter.identitynet.named_parameters():
            if "controlnet_" in name:
                value.normal_(std=0.1)  # its outputs start at zero
    batch = objective.data.batch(StepKey(0, 0, range(8), 8))
    noisy = batch.key.normal((4, 16, 16), 1)
    from idpersona.training.objectives.diffusion_models import predict

    with torch.no_grad():
        context = objective.base.text_encoder(batch.token_ids)[0]
        plain = objective.base.unet(noisy, batch.timesteps, context).sample
        tokens = objective.adapter.projector(batch.descriptors)
        seen = predict(objective.base.unet, objective.adapter, noisy, context, tokens, batch)
    difference = (seen - plain).abs().amax(dim=(1, 2, 3))
    assert (difference[: batch.people] > 1e-3).all()
    assert (difference[batch.people :] < 1e-5).all()


def test_a_run_keeps_its_tokenizer(diffusion_objective, tmp_path, recipe_writer, monkeypatch):
    """Learnt anew from other captions, token numbers would mean other words."""
    path = recipe_writer(tmp_path, "mini", diffusion_objective)
    run = run_recipe(path)
    before = build_objective(load_recipe(path)).base.tokenizer.get_vocab()
    monkeypatch.setattr(diffusion_data, "caption", lambda *_a, **_k: "zebras quietly juggle oxen")
    assert build_objective(load_recipe(path)).base.tokenizer.get_vocab() == before
    shutil.rmtree(run / "tokenizer")
    assert build_objective(load_recipe(path)).base.tokenizer.get_vocab() == before
    shutil.rmtree(run / "base")
    with pytest.raises(BadInput, match="without the tokenizer"):
        build_objective(load_recipe(path))
    shutil.rmtree(run)
    anew = build_objective(load_recipe(path))
    assert anew.base.tokenizer.get_vocab() != before
    assert not run.exists()  # nothing is written before the first step


def test_resuming_needs_what_it_started_from(diffusion_objective, diffusion_run, tmp_path, recipe_writer):
    start = shutil.copytree(diffusion_run, tmp_path / "start")
    path = recipe_writer(tmp_path, "mini", diffusion_objective, init_from=str(start))
    run_recipe(path)
    shutil.rmtree(start)
    with pytest.raises(MissingWeights, match="no text-to-image model in"):
        run_recipe(path, resume=True)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    diffusion_run, diffusion_objective, tmp_path, recipe_writer, monkeypatch, set_clock
):
    path = recipe_writer(tmp_path, "mini", diffusion_objective)
    with monkeypatch.context() as patch:
        ticks = iter(range(0, 600, 60))
        set_clock(patch, lambda: float(next(ticks)))
        run_recipe(path, minutes=1.5)
    stopped = latest_checkpoint(tmp_path / "mini" / "checkpoints")
    assert stopped.name == "step-1"
    run_recipe(path, resume=True)
    for name in ("weights.safetensors", "ema.safetensors"):
        whole = load_file(diffusion_run / "checkpoints" / "step-3" / name)
        parts = load_file(tmp_path / "mini" / "checkpoints" / "step-3" / name)
        assert whole.keys() == parts.keys()
        assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_the_result_draws_in_stock_classes_and_takes_a_person(diffusion_run):
    pipe = StableDiffusionPipeline.from_pretrained(diffusion_run / "base")
    pipe.set_progress_bar_config(disable=True)

    def draw():
        return np.asarray(
            pipe(
                "a photo of a smiling man",
                num_inference_steps=2,
                generator=torch.Generator().manual_seed(0),
            ).images[0]
        )

    plain = draw()
    assert plain.shape == (128, 128, 3) and plain.std() > 0
    adapter = load_adapter(diffusion_run / "instantid", base=pipe)
    assert adapter.encoders == ("dlib",)
    points = np.array([[44, 60], [84, 60], [64, 80], [48, 100], [80, 100]], np.float32)
    values = np.random.default_rng(0).normal(0, 0.1, (1, 128)).astype(np.float32)
    person = Identity("face", {"dlib": Feature("dlib", values)}, keypoints=points, image_size=(128, 128))
    with adapter.attach(pipe, person):
        assert not np.array_equal(draw(), plain)
    assert np.array_equal(draw(), plain)
