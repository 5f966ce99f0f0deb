"""LEDITS++ through diffusers on tiny models of both families: what comes back, and what an edit changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel

from idpersona.errors import BadInput
from idpersona.pipelines import load_base, weighted_prompts
from idpersona.pipelines.editing.edit import Edited, edit
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.ledits import ledits_scope
from idpersona.pipelines.inversion.methods import invert
from idpersona.pipelines.inversion.photos import decode_latents
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.pipelines.inversion.schedule import ddim, split
from idpersona.seams.call import is_attached
from idpersona.seams.cross import cross_scope
from idpersona.testing import tiny_components
from idpersona.testing.checker import tiny_safety_checker

PHOTOS = ["sample:person-1", "sample:person-2"]
SOURCES = ["a photo of a man", "a photo, of a cat."]
TARGETS = ["a photo of a woman with a hat", "a photo, of a dog."]
KINDS = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
STEPS, SIZE = 4, (64, 32)


def predicting(kind: str, prediction: str) -> Any:
    made: Any = KINDS[kind](**tiny_components(kind))
    made.scheduler = type(made.scheduler).from_config(made.scheduler.config, prediction_type=prediction)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module", params=[("sd15", "v_prediction"), ("sdxl", "epsilon")], ids=str)
def pipe(request: pytest.FixtureRequest) -> Any:
    return predicting(*request.param)


@pytest.fixture(scope="module")
def record(pipe: Any) -> Inversion:
    return invert_both(pipe)


@pytest.fixture(scope="module")
def whole(pipe: Any) -> Inversion:
    return invert_both(pipe, zero_noise=0)


@pytest.fixture(scope="module", params=KINDS)
def deep(request: pytest.FixtureRequest) -> Any:
    """A pipeline whose U-Net has cross-attention at a quarter of the latents' sides, as large ones have."""
    parts = tiny_components(request.param)
    config = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    blocks = {
        "block_out_channels": (32, 32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    if request.param == "sdxl":
        blocks |= {"attention_head_dim": (2, 4, 4), "transformer_layers_per_block": (1, 1, 2)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts["unet"] = UNet2DConditionModel(**{**config, **blocks}).eval()
    made: Any = KINDS[request.param](**parts)
    made.set_progress_bar_config(disable=True)
    return made


def invert_both(pipe: Any, **options: Any) -> Inversion:
    return invert(pipe, PHOTOS, SOURCES, method="ledits", steps=STEPS, size=SIZE, **options)


def draw(pipe: Any, record: Inversion, targets: Any = TARGETS, **options: Any) -> Edited:
    return edit(pipe, record, targets, output_type="latent", **options)


def near(one: torch.Tensor, other: torch.Tensor, share: float) -> bool:
    return torch.allclose(one, other, atol=share * float(other.abs().max()))


def test_photos_come_back_and_edits_differ(pipe: Any, whole: Inversion) -> None:
    assert whole.steps == whole.passes == STEPS and whole.guidance == 5.0
    edited = draw(pipe, whole)
    # Rounding errors of float32, which a few large steps of an untrained model make grow.
    assert near(edited.sources, whole.latents[0], 1e-4)
    assert float((edited.images - edited.sources).abs().flatten(1).mean(dim=1).min()) > 0.01
    pictures = edit(pipe, whole, TARGETS)
    for picture, plain in zip(pictures.sources, decode_latents(pipe, whole.latents[0]), strict=True):
        assert np.abs(np.asarray(picture, int) - np.asarray(plain, int)).max() <= 1
    assert pictures.images[0].size == SIZE
    assert near(draw(pipe, whole, guidance=0.0).images, whole.latents[0], 1e-4)


def test_last_steps_without_noise(pipe: Any, record: Inversion, whole: Inversion) -> None:
    zeros = 3 if hasattr(pipe, "text_encoder_2") else 0
    assert whole.noises is not None and record.noises is not None and bool((whole.noises != 0).all())
    assert torch.equal(record.noises[: STEPS - zeros], whole.noises[: STEPS - zeros])
    assert not record.noises[STEPS - zeros :].any()
    assert torch.equal(record.latents, whole.latents)
    assert near(draw(pipe, record).sources, whole.latents[0], 1e-4) is (zeros == 0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_noise_is_what_the_solver_leaves(kind: str, prediction: str) -> None:
    """One step of first order, down to the photo: DPM-Solver++ (arXiv:2211.01095), as an SDE."""
    pipe = predicting(kind, prediction)
    record = invert(pipe, PHOTOS[0], SOURCES[0], method="ledits", steps=1, size=SIZE, zero_noise=0)
    schedule, denoise, level = ddim(record.scheduler, 1), Denoiser(pipe, record.size), 501
    _, empty = denoise.tell([""])
    with torch.no_grad():
        predicted = denoise(record.latents[1], level, empty)
    above, below = schedule.alphas_cumprod[level], schedule.alphas_cumprod[0]
    clean, _ = split(schedule, predicted, record.latents[1], above)
    left = (above / (1 - above) / below * (1 - below)) ** 0.5
    mean = ((1 - below) / (1 - above)) ** 0.5 * left * record.latents[1] + below**0.5 * (1 - left**2) * clean
    noise = (record.latents[0] - mean) / ((1 - below) * (1 - left**2)) ** 0.5
    assert record.noises is not None and near(record.noises[0], noise, 1e-4)


def test_a_photo_is_edited_as_in_a_batch(pipe: Any, record: Inversion) -> None:
    both, edited = record, draw(pipe, record)
    assert both.noises is not None
    for n in range(2):
        alone = invert(pipe, PHOTOS[n], SOURCES[n], method="ledits", steps=STEPS, size=SIZE)
        assert alone.noises is not None and near(alone.noises[:, 0], both.noises[:, n], 1e-4)
        part = dataclasses.replace(
            both,
            prompts=both.prompts[n : n + 1],
            latents=both.latents[:, n : n + 1],
            noises=both.noises[:, n : n + 1],
        )
        assert torch.equal(draw(pipe, part, TARGETS[n]).images[0], edited.images[n])
    other = invert_both(pipe, seed=1)
    assert not torch.allclose(other.latents[-1], both.latents[-1])


def test_a_file_gives_back_the_edit(pipe: Any, tmp_path: Path) -> None:
    record = invert_both(pipe, threshold=0.8)
    again = Inversion.load(record.save(tmp_path / "a.safetensors"))
    one, other = draw(pipe, record), draw(pipe, again)
    assert torch.equal(one.images, other.images) and torch.equal(one.sources, other.sources)
    with pytest.raises(InversionError, match="noise of every step"):
        edit(pipe, dataclasses.replace(record, noises=None), TARGETS)
    with pytest.raises(InversionError, match="do not fit"):
        dataclasses.replace(record, noises=torch.zeros(STEPS, 2, 4, 3, 3))


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"warmup": 2}, {"skip": 0.9}], ids=str)
def test_options_count(pipe: Any, record: Inversion, options: dict[str, Any]) -> None:
    assert not torch.allclose(draw(pipe, record).images, draw(pipe, invert_both(pipe, **options)).images)


def test_outside_of_a_region_the_photo_is_held(pipe: Any, record: Inversion) -> None:
    region = np.zeros((SIZE[1], SIZE[0]), dtype=np.float32)
    region[:, :32] = 1
    edited = draw(pipe, record, region=region).images
    assert near(edited[..., 16:], record.latents[0][..., 16:], 1e-6)
    assert not near(edited[..., :16], record.latents[0][..., :16], 1e-2)


def state(pipe: Any) -> list[Any]:
    return [
        {name: id(part) for name, part in pipe.unet.attn_processors.items()},
        [id(part) for part in pipe.components.values()],
        id(pipe.unet.config),
        dict(pipe.scheduler.config),
        [part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)],
        sorted(vars(pipe)),
        len(pipe.unet._forward_hooks) + len(pipe.unet._forward_pre_hooks),
    ]


def fail(*_: Any) -> Any:
    raise RuntimeError("stop")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_pipeline_is_what_it_was(deep: Any, dtype: torch.dtype) -> None:
    # diffusers leaves SDXL's autoencoder in float32 where it was in float16.
    deep.to(dtype)
    before = state(deep)
    record = invert_both(deep)
    draw(deep, record)
    assert state(deep) == before and not is_attached(deep.unet)
    for doing in (
        lambda: invert_both(deep, on_step=fail),
        lambda: edit(deep, record, TARGETS, on_step=fail),
    ):
        with pytest.raises(RuntimeError, match="stop"):
            doing()
        assert state(deep) == before
    deep.to(torch.float32)


def test_attention_says_where_a_concept_is(deep: Any) -> None:
    records = [invert_both(deep, intersect=intersect, zero_noise=0) for intersect in (True, False, None)]
    both, plain, usual = (draw(deep, record) for record in records)
    assert not torch.allclose(both.images, plain.images)
    assert torch.equal(usual.images, (plain if hasattr(deep, "text_encoder_2") else both).images)
    assert near(both.sources, records[0].latents[0], 2e-5), "drawn with the attention of the inversion"


def test_concepts_have_the_tokens_of_their_words(pipe: Any, record: Inversion) -> None:
    with ledits_scope(pipe, record.scheduler, record.size) as ledits:
        ledits.batch_size = 1
        found = ledits.encode_prompt(
            device=pipe.device,
            num_images_per_prompt=1,
            enable_edit_guidance=True,
            editing_prompt=["hat", "red hat"],
        )
    # The tiny tokenizer spells words in bytes; spaces are no tokens.
    assert found[-1] == [3, 6]


def test_sdxl_is_told_height_and_width(deep: Any) -> None:
    if not hasattr(deep, "text_encoder_2"):
        return
    seen = []
    handle = deep.unet.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"].tolist()),
        with_kwargs=True,
    )
    draw(deep, invert_both(deep))
    handle.remove()
    assert {tuple(row) for rows in seen for row in rows} == {(32, 64, 0, 0, 32, 64)}


def test_what_cannot_work_is_refused(pipe: Any) -> None:
    def refused(match: str, doing: Callable[[], Any]) -> None:
        with pytest.raises(BadInput, match=match):
            doing()

    def with_photo(**options: Any) -> Any:
        return invert(pipe, PHOTOS[0], SOURCES[0], **{"method": "ledits", "steps": STEPS, **options})

    refused("take 64x32", lambda: with_photo(size=(48, 32)))
    refused("skip", lambda: with_photo(skip=1.0))
    refused("threshold", lambda: with_photo(threshold=1.5))
    refused("warmup", lambda: with_photo(warmup=-1))
    refused("998 steps", lambda: with_photo(steps=900))
    refused("leave intersect out", lambda: with_photo(size=SIZE, intersect=True))
    record, other = with_photo(size=(32, 32)), Control(cross=1.0)
    refused(r"takes no control.*direct, null-text", lambda: edit(pipe, record, "a dog", control=other))
    refused("its own negative", lambda: edit(pipe, record, "a dog", negative="a cat"))
    refused("say the same", lambda: edit(pipe, record, "A photo: of the man!"))
    with cross_scope(pipe.unet, [], pipe=pipe):
        refused("attached adapters", lambda: edit(pipe, record, "a dog"))
    with weighted_prompts(pipe):
        refused("weighted prompts", lambda: edit(pipe, record, "a dog"))
    images = [edit(pipe, record, "a dog", control=c, output_type="latent").images for c in (None, Control())]
    assert torch.equal(*images)


def test_a_base_with_a_tiny_autoencoder_is_refused() -> None:
    with pytest.raises(BadInput, match=r"latent_dist.*AutoencoderTiny"):
        invert(load_base("mini"), PHOTOS[0], SOURCES[0], method="ledits")


def test_blocked_edits_are_refused() -> None:
    parts = tiny_components("sd15") | tiny_safety_checker()
    pipe: Any = StableDiffusionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    record = invert(pipe, PHOTOS[0], SOURCES[0], method="ledits", steps=1, size=(32, 32))
    with pytest.raises(BadInput, match="safety checker blocked"):
        edit(pipe, record, "a dog")
