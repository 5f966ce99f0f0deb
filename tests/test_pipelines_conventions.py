"""What diffusers expects of every pipeline class: the checks of its own test mixins, in our words."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback, SDXLControlnetCFGCutoffCallback
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image

from idpersona.pipelines import StableDiffusionInstantIDPipeline, StableDiffusionXLInstantIDPipeline
from idpersona.testing import tiny_components, tiny_inputs

PIPELINES: dict[str, Any] = {
    "instantid-sd15": StableDiffusionInstantIDPipeline,
    "instantid-sdxl": StableDiffusionXLInstantIDPipeline,
}


def make(kind: str) -> Any:
    pipe = PIPELINES[kind](**tiny_components(kind))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, kind: str, **overrides: Any) -> np.ndarray:
    return pipe(**tiny_inputs(kind) | overrides)[0]


def largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.fixture(scope="module", params=list(PIPELINES))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(kind: str) -> Any:
    return make(kind)


@pytest.fixture(scope="module")
def base(pipe: Any, kind: str) -> np.ndarray:
    return draw(pipe, kind)


def test_call_signature(pipe: Any, kind: str) -> None:
    parameters = inspect.signature(type(pipe).__call__).parameters
    stock = inspect.signature(type(pipe).__mro__[2].__call__).parameters
    assert set(stock) | {"image_embeds", "ip_adapter_scale", "control_mask"} == set(parameters)
    for name, parameter in parameters.items():
        if name not in ("self", "kwargs"):
            assert parameter.default is not inspect.Parameter.empty, name


def test_published_positional_order() -> None:
    names = list(inspect.signature(StableDiffusionXLInstantIDPipeline.__call__).parameters)
    assert names[1:8] == [
        "prompt",
        "prompt_2",
        "image",
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
    ]


def test_components_rebuild_the_pipeline(pipe: Any, kind: str, base: np.ndarray) -> None:
    assert set(pipe.components) == set(tiny_components(kind))
    again = type(pipe)(**pipe.components)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(draw(again, kind), base)


@pytest.mark.parametrize("safe", [True, False])
def test_save_and_load(kind: str, tmp_path: Any, safe: bool) -> None:
    pipe = make(kind)
    pipe.set_ip_adapter_scale(0.7)
    expected = draw(pipe, kind)
    pipe.save_pretrained(tmp_path, safe_serialization=safe)
    torch.manual_seed(99)
    loaded = type(pipe).from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.identity_scale == 0.7
    assert largest(draw(loaded, kind), expected) < 1e-5


def test_load_in_another_dtype(pipe: Any, kind: str, tmp_path: Any) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path).to(dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    models = [part for part in loaded.components.values() if hasattr(part, "dtype")]
    assert len(models) >= 6
    assert {part.dtype for part in models} == {torch.bfloat16}
    assert np.isfinite(draw(loaded, kind)).all()


def test_optional_components_may_be_none(kind: str, tmp_path: Any) -> None:
    pipe = make(kind)
    optional = [name for name in pipe._optional_components if not name.startswith(("text", "token"))]
    assert not {"projector", "cross_attention"} & set(optional)
    for name in optional:
        setattr(pipe, name, None)
    expected = draw(pipe, kind)
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert all(getattr(loaded, name) is None for name in optional)
    assert largest(draw(loaded, kind), expected) < 1e-5


def test_a_base_without_adapter_loads_and_saves(kind: str, tmp_path: Any) -> None:
    bare = PIPELINES[kind](**tiny_components(kind) | {"projector": None, "cross_attention": None})
    assert {"projector", "cross_attention"} <= set(bare._optional_components)
    bare.save_pretrained(tmp_path)
    assert not (tmp_path / "projector").exists()
    loaded = type(bare).from_pretrained(tmp_path)
    assert loaded.projector is None and loaded.cross_attention is None


def test_tuple_equals_output_object(pipe: Any, kind: str, base: np.ndarray) -> None:
    result = pipe(**tiny_inputs(kind), return_dict=False)
    assert isinstance(result, tuple)
    assert np.array_equal(result[0], base)


@pytest.mark.parametrize("size", [2, 3])
def test_batch_of_prompts_of_different_length(pipe: Any, kind: str, size: int) -> None:
    prompt = tiny_inputs(kind)["prompt"]
    prompts = [prompt[: len(prompt) // (i + 1)] for i in range(size - 1)] + [100 * "very long "]
    assert draw(pipe, kind, prompt=prompts).shape == (size, 64, 64, 3)


def test_batch_row_equals_single(pipe: Any, kind: str) -> None:
    inputs = tiny_inputs(kind)
    batched = draw(
        pipe,
        kind,
        prompt=[inputs["prompt"]] * 2,
        negative_prompt=[""] * 2,
        image_embeds=[inputs["image_embeds"]] * 2,
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
    )
    assert largest(batched[0], draw(pipe, kind, negative_prompt="")[0]) < 1e-4


@pytest.mark.parametrize("prompts", [1, 2])
def test_num_images_per_prompt(pipe: Any, kind: str, prompts: int) -> None:
    pictures = draw(pipe, kind, prompt=[tiny_inputs(kind)["prompt"]] * prompts, num_images_per_prompt=2)
    assert pictures.shape[0] == 2 * prompts


def test_prompt_embeds_equal_the_prompt(pipe: Any, kind: str, base: np.ndarray) -> None:
    inputs = tiny_inputs(kind)
    encoded = pipe.encode_prompt(
        prompt=inputs.pop("prompt"),
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )
    names = ["prompt_embeds", "negative_prompt_embeds"]
    names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"] if len(encoded) == 4 else []
    result = pipe(**inputs, **dict(zip(names, encoded, strict=True)))[0]
    assert largest(result, base) < 1e-5


def test_picture_types_are_equivalent(pipe: Any, kind: str, base: np.ndarray) -> None:
    array = tiny_inputs(kind)["image"].permute(0, 2, 3, 1).numpy()
    assert largest(draw(pipe, kind, image=array), base) < 1e-4
    picture = Image.fromarray((array[0] * 255).round().astype(np.uint8))
    assert largest(draw(pipe, kind, image=picture), base) < 1e-2


def test_output_types_are_equivalent(pipe: Any, kind: str, base: np.ndarray) -> None:
    tensor = pipe(**tiny_inputs(kind) | {"output_type": "pt"})[0]
    assert largest(tensor.numpy().transpose(0, 2, 3, 1), base) < 1e-4
    picture = pipe(**tiny_inputs(kind) | {"output_type": "pil"})[0][0]
    assert largest(np.asarray(picture, dtype=np.float32), (base[0] * 255).round()) < 2
    latents = pipe(**tiny_inputs(kind) | {"output_type": "latent"})[0]
    assert latents.shape == (1, 4, 32, 32)


def test_given_latents_are_used(pipe: Any, kind: str, base: np.ndarray) -> None:
    latents = torch.randn(1, 4, 32, 32, generator=tiny_inputs(kind)["generator"])
    assert largest(draw(pipe, kind, latents=latents), base) < 1e-5


def test_step_callback(pipe: Any, kind: str) -> None:
    steps: list[int] = []

    def look(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        assert set(tensors) == set(pipe._callback_tensor_inputs)
        if step == 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    result = pipe(
        **tiny_inputs(kind) | {"output_type": "latent"},
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=list(pipe._callback_tensor_inputs),
    )[0]
    assert steps == [0, 1]
    assert float(result.abs().sum()) == 0.0
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        draw(pipe, kind, callback_on_step_end_tensor_inputs=["nothing"])


def test_guidance_may_end_during_the_call(pipe: Any, kind: str, base: np.ndarray) -> None:
    rows: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _m, args: rows.append(args[0].shape[0]))
    cutoff: Any = SDXLControlnetCFGCutoffCallback if kind.endswith("sdxl") else SDCFGCutoffCallback
    stop = cutoff(cutoff_step_ratio=None, cutoff_step_index=0)

    def also_the_picture(*args: Any) -> dict[str, Any]:
        # diffusers' callback for SD1.x knows no ControlNet: its picture has guidance rows, too.
        result = stop(*args)
        result["image"] = args[3]["image"][-1:]
        return result

    names = {*stop.tensor_inputs, "image"}
    try:
        changed = draw(
            pipe,
            kind,
            callback_on_step_end=also_the_picture,
            callback_on_step_end_tensor_inputs=list(names),
        )
    finally:
        hook.remove()
    assert rows == [2, 1]
    assert largest(changed, base) > 1e-4


@pytest.mark.parametrize("slice_size", ["auto", "max", 1])
def test_attention_slicing(pipe: Any, kind: str, base: np.ndarray, slice_size: Any) -> None:
    pipe.enable_attention_slicing(slice_size)
    try:
        assert largest(draw(pipe, kind), base) < 1e-3
    finally:
        pipe.disable_attention_slicing()


def test_vae_slicing_and_tiling(pipe: Any, kind: str, base: np.ndarray) -> None:
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    try:
        assert largest(draw(pipe, kind), base) < 0.5
    finally:
        pipe.vae.disable_slicing()
        pipe.vae.disable_tiling()


def test_fused_projections(kind: str, base: np.ndarray) -> None:
    pipe = make(kind)
    pipe.fuse_qkv_projections()
    assert largest(draw(pipe, kind), base) < 1e-3
    pipe.unfuse_qkv_projections()
    assert largest(draw(pipe, kind), base) < 1e-3


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler],
)
def test_schedulers(kind: str, scheduler: Any) -> None:
    pipe = make(kind)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    picture = draw(pipe, kind)
    assert picture.shape == (1, 64, 64, 3)
    assert np.isfinite(picture).all()


def test_plain_ip_adapter_beside_it(kind: str) -> None:
    pipe = make(kind)
    expected = draw(pipe, kind)
    width = pipe.unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(3)
    image_proj = {
        "proj.weight": torch.randn(4 * width, 24, generator=generator) * 0.2,
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    ip_adapter = {}
    for number, name in enumerate(pipe.unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for key in ("to_k_ip", "to_v_ip"):
                weight = torch.randn(layer.inner_dim, width, generator=generator) * 0.2
                ip_adapter[f"{number}.{key}.weight"] = weight
    pipe.unet._load_ip_adapter_weights({"image_proj": image_proj, "ip_adapter": ip_adapter})
    embeds = [torch.randn(2, 1, 24, generator=generator)]
    pipe.set_ip_adapter_scale(0.0)
    assert largest(draw(pipe, kind, ip_adapter_image_embeds=embeds), expected) < 1e-4
    pipe.set_ip_adapter_scale(5.0)
    assert largest(draw(pipe, kind, ip_adapter_image_embeds=embeds), expected) > 1e-3
    assert pipe.identity_scale == 0.5


def test_from_pipe(kind: str, base: np.ndarray) -> None:
    parts = tiny_components(kind)
    ours = {name: parts.pop(name) for name in ("controlnet", "projector", "cross_attention")}
    stock = PIPELINES[kind].__mro__[2](**parts, controlnet=ours["controlnet"])
    pipe = PIPELINES[kind].from_pipe(stock, **ours)
    pipe.set_progress_bar_config(disable=True)
    assert np.array_equal(draw(pipe, kind), base)


def test_tiny_autoencoder(kind: str) -> None:
    pipe = make(kind)
    stages: dict[str, Any] = {
        "encoder_block_out_channels": (8,) * 2,
        "decoder_block_out_channels": (8,) * 2,
        "num_encoder_blocks": (1,) * 2,
        "num_decoder_blocks": (1,) * 2,
    }
    other = type(pipe)(**pipe.components | {"vae": AutoencoderTiny(**stages)})
    again = type(pipe).from_pipe(other)
    again.set_progress_bar_config(disable=True)
    assert draw(again, kind).shape == (1, 64, 64, 3)
    assert largest(draw(again, kind), draw(pipe, kind)) > 1e-3
