"""Every inversion on tiny models of both families: what it promises, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from idpersona.errors import BadInput, SeamError, UnknownName
from idpersona.pipelines.editing.edit import edit, reconstruct
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.method import Task
from idpersona.pipelines.inversion.methods import METHODS, invert
from idpersona.pipelines.inversion.null_text import NullText
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.pipelines.inversion.schedule import ddim
from idpersona.seams.call import is_attached
from idpersona.seams.latent import Told, latent_scope
from idpersona.testing import tiny_components

PHOTOS = ["sample:person-1", "sample:person-2"]
SOURCES = ["a photo of a man", "a photo, of a cat."]
TARGETS = ["a photo of a woman", "a photo, of a dog."]
KINDS = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
STEPS, SIZE = 4, (32, 32)
PAIRED = [name for name, kind in METHODS.items() if kind.takes_control]


@pytest.fixture(scope="module", params=[(k, p) for k in KINDS for p in ("epsilon", "v_prediction")], ids=str)
def pipe(request: pytest.FixtureRequest) -> Any:
    kind, prediction = request.param
    made: Any = KINDS[kind](**tiny_components(kind))
    made.scheduler = type(made.scheduler).from_config(made.scheduler.config, prediction_type=prediction)
    made.set_progress_bar_config(disable=True)
    return made


def invert_both(pipe: Any, method: str, **options: Any) -> Inversion:
    return invert(pipe, PHOTOS, SOURCES, method=method, steps=STEPS, size=SIZE, **options)


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_as_each_photo_alone(pipe: Any, method: str) -> None:
    both = invert_both(pipe, method)
    assert both.steps == STEPS and both.photos == 2 and both.passes > 0
    twice = len(both.latents[0]) // 2
    for n in range(2):
        alone = invert(pipe, PHOTOS[n], SOURCES[n], method=method, steps=STEPS, size=SIZE)
        scale = float(alone.latents.abs().max())
        assert torch.allclose(
            both.latents[:, n::2] if twice == 2 else both.latents[:, n : n + 1],
            alone.latents,
            atol=2e-3 * scale,
        )
        if both.unconditional is not None and alone.unconditional is not None:
            own = both.unconditional[:, n : n + 1]
            assert torch.allclose(own, alone.unconditional, atol=5e-3 * float(own.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_the_pipeline_is_what_it_was(pipe: Any, method: str) -> None:
    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe("a cat", num_inference_steps=2, generator=generator, output_type="latent").images

    before, parts = draw(), {n: id(p) for n, p in pipe.unet.attn_processors.items()}
    scheduler = pipe.scheduler
    edit(pipe, invert_both(pipe, method), TARGETS, output_type="latent")
    assert pipe.scheduler is scheduler
    assert {n: id(p) for n, p in pipe.unet.attn_processors.items()} == parts
    assert torch.equal(draw(), before)


def test_direct_keeps_the_photos_on_their_pivots(pipe: Any) -> None:
    record = invert_both(pipe, "direct")
    seen = []

    def on_step(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, values["latents"][::2].clone()))
        return values

    edited = edit(pipe, record, TARGETS, on_step=on_step, output_type="latent")
    for step, latents in seen:
        assert torch.equal(latents, record.latents[STEPS - 1 - step])
    assert torch.equal(edited.sources, record.latents[0])
    assert not torch.allclose(edited.images, edited.sources)


def test_negative_prompt_draws_the_photos_as_if_unguided(pipe: Any) -> None:
    record = invert_both(pipe, "negative-prompt")
    sources = edit(pipe, record, TARGETS, control=None, output_type="latent").sources
    own, pipe.scheduler = pipe.scheduler, ddim(record.scheduler, STEPS)
    plain = pipe(
        prompt=SOURCES,
        latents=record.latents[-1],
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        output_type="latent",
        height=record.size[0] * pipe.vae_scale_factor,
        width=record.size[1] * pipe.vae_scale_factor,
    ).images
    pipe.scheduler = own
    assert torch.allclose(sources, plain, atol=1e-4 * float(plain.abs().max()))


def test_proximal_without_a_threshold_is_negative_prompt(pipe: Any) -> None:
    one = edit(pipe, invert_both(pipe, "negative-prompt"), TARGETS, output_type="latent")
    other = edit(pipe, invert_both(pipe, "proximal", quantile=0.0, kind="l1"), TARGETS, output_type="latent")
    strict = edit(pipe, invert_both(pipe, "proximal", quantile=0.99), TARGETS, output_type="latent")
    size = float(one.images.abs().max())
    # The smallest difference of each picture is the threshold of l1.
    assert torch.allclose(one.images, other.images, atol=1e-2 * size)
    assert torch.allclose(strict.sources, one.sources, atol=1e-4 * size)
    assert (strict.images - strict.sources).abs().mean() < (one.images - one.sources).abs().mean()


@pytest.mark.parametrize("method", [name for name in PAIRED if name not in ("direct", "edict")])
def test_replacing_a_prompt_by_itself_changes_nothing(pipe: Any, method: str) -> None:
    same = edit(
        pipe, invert_both(pipe, method), SOURCES, control=Control(kind="replace"), output_type="latent"
    )
    assert torch.allclose(same.images, same.sources, atol=2e-4 * float(same.sources.abs().max()))


@pytest.mark.parametrize("method", PAIRED)
def test_photos_come_back_without_an_edit_beside_them(pipe: Any, method: str) -> None:
    # Rounding differs with the size of a batch, and the coupled steps of edict make it grow.
    pipe.to(torch.float64 if method == "edict" else torch.float32)
    rows: list[int] = []
    try:
        record = invert_both(pipe, method)
        seen = pipe.unet.conv_in.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
        alone = reconstruct(pipe, record)
        seen.remove()
        beside = edit(pipe, record, TARGETS, control=None).sources
    finally:
        pipe.to(torch.float32)
    for one, other in zip(alone, beside, strict=True):
        assert np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max() <= 1
    # Two photos, each told what it shows and, for the guidance, nothing.
    assert rows == [4] * (2 * STEPS if method == "edict" else STEPS)


def test_edict_comes_back_exactly() -> None:
    pipe: Any = StableDiffusionPipeline(**tiny_components("sd15")).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    record = invert(pipe, PHOTOS, SOURCES, method="edict", steps=6, guidance=3.0, size=SIZE)
    edited = edit(pipe, record, TARGETS, control=None, output_type="latent")
    assert float((edited.sources - record.latents[0][:2]).abs().max()) < 1e-8
    # In float32 the rounding errors of two rows would drift apart.
    same = edit(pipe, record, SOURCES, control=Control(kind="replace"), output_type="latent")
    assert float((same.sources - same.images).abs().max()) < 1e-8


def test_null_text_comes_nearer_than_ddim(pipe: Any) -> None:
    errors = {}
    for method in ("ddim", "null-text"):
        record = invert_both(pipe, method)
        sources = edit(pipe, record, TARGETS, control=None, output_type="latent").sources
        errors[method] = float((sources - record.latents[0]).square().mean())
    assert errors["null-text"] < errors["ddim"]


def test_what_cannot_work_is_refused(pipe: Any) -> None:
    with pytest.raises(UnknownName, match="direct"):
        invert(pipe, PHOTOS[0], SOURCES[0], method="dircet")
    with pytest.raises(BadInput, match="inner"):
        invert(pipe, PHOTOS[0], SOURCES[0], method="null-text", outer=3)
    with pytest.raises(BadInput, match="one that says"):
        invert(pipe, PHOTOS, SOURCES[0])
    with pytest.raises(BadInput, match="multiples"):
        invert(pipe, PHOTOS[0], SOURCES[0], size=(65, 64))
    record = invert_both(pipe, "direct")
    with pytest.raises(BadInput, match="refine"):
        edit(pipe, record, "a photo of a very old man", control=Control(kind="replace"))
    with pytest.raises(BadInput, match="does not hold 'hat'"):
        edit(pipe, record, TARGETS, control=Control(reweight={"hat": 2.0}))
    with pytest.raises(BadInput, match="one for each"):
        edit(pipe, record, TARGETS[:1])
    other: Any = type(pipe)(**tiny_components("sdxl" if "XL" in type(pipe).__name__ else "sd15"))
    with torch.no_grad():
        other.unet.conv_in.weight.mul_(1.5)
    with pytest.raises(InversionError, match="another base"):
        edit(other, record, TARGETS)


def test_renoise_keeps_batches_apart_while_it_keeps_noise_like_noise(pipe: Any) -> None:
    both = invert_both(pipe, "renoise", rounds=2, average=2)
    plain = invert_both(pipe, "renoise", average=2)
    assert not torch.allclose(both.latents, plain.latents)
    for n in range(2):
        alone = invert(
            pipe, PHOTOS[n], SOURCES[n], method="renoise", steps=STEPS, size=SIZE, rounds=2, average=2
        )
        size = float(alone.latents.abs().max())
        assert torch.allclose(both.latents[:, n : n + 1], alone.latents, atol=2e-3 * size)


@pytest.mark.parametrize("method", PAIRED)
def test_odd_steps_and_sizes(pipe: Any, method: str) -> None:
    record = invert(pipe, PHOTOS[0], SOURCES[0], method=method, steps=3, size=(48, 32), guidance=2.0)
    edited = edit(pipe, record, TARGETS[0])
    assert edited.images[0].size == edited.sources[0].size == (48, 32)


def test_a_failing_edit_leaves_the_pipeline_as_it_was(pipe: Any) -> None:
    record, scheduler = invert_both(pipe, "null-text"), pipe.scheduler
    parts = {n: id(p) for n, p in pipe.unet.attn_processors.items()}

    def fail(*_: Any) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        edit(pipe, record, TARGETS, on_step=fail)
    assert pipe.scheduler is scheduler and not is_attached(pipe.unet)
    assert {n: id(p) for n, p in pipe.unet.attn_processors.items()} == parts
    with pytest.raises(BadInput, match="its own negative prompt"):
        edit(pipe, record, TARGETS, negative="a cat")


def test_one_scope_at_a_time(pipe: Any) -> None:
    record = invert_both(pipe, "direct")
    from idpersona.pipelines.inversion.steering import Plain

    with (
        latent_scope(pipe, ddim(record.scheduler, STEPS), Plain()),
        pytest.raises(SeamError, match="already"),
    ):
        edit(pipe, record, TARGETS)


class _Linear:
    """A denoiser that is linear in what it is told, as null-text inversion takes a U-Net to be nearly."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(64, 24, generator=generator) / 5
        self.passes = 0

    def __call__(self, latents: torch.Tensor, timestep: Any, told: Told) -> torch.Tensor:
        self.passes += 1
        return (told.text.flatten(1) @ self.matrix.T).view_as(latents)


def test_null_text_never_makes_a_step_worse() -> None:
    """With a linear model more gradient steps never leave more, and many of them far less."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    denoise: Any = _Linear()
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    task = Task(
        denoise=denoise,
        scheduler=ddim(config, 2),
        photo=noise(2, 4, 4, 4),
        source=Told(noise(2, 6, 4)),
        empty=Told(noise(2, 6, 4)),
        guidance=7.5,
        on_step=lambda: None,
        pictures=list,
    )
    scheduler = task.scheduler

    def left(inner: int) -> torch.Tensor:
        found = NullText(inner=inner, stop=False).invert(task)
        start, timestep = found["latents"][-1], scheduler.timesteps[0]
        free = denoise(start, timestep, Told(found["unconditional"][0]))
        guided = free + task.guidance * (denoise(start, timestep, task.source) - free)
        ends = scheduler.step(guided, int(timestep), start, return_dict=False)[0]
        # The first of the two steps: at the second there is no noise left to speak of.
        return (ends - found["latents"][1]).square().flatten(1).mean(dim=1)

    errors = torch.stack([left(inner) for inner in (1, 2, 4, 8, 16)])
    assert bool((errors[1:] <= errors[:-1] * (1 + 1e-4)).all()), errors
    assert bool((errors[-1] < 0.5 * errors[0]).all()), errors


def test_the_names_are_those_of_the_methods():
    from idpersona.pipelines.inversion.names import NAMES

    assert tuple(METHODS) == NAMES
