"""What InstantID means in a pipeline: who sees the identity, whose it is, and what stays untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.convert import Published, write_published
from idpersona.errors import BadInput, CheckpointError
from idpersona.identity import Feature, Identity
from idpersona.pipelines import StableDiffusionInstantIDPipeline, StableDiffusionXLInstantIDPipeline
from idpersona.testing import tiny_components, tiny_inputs

PIPELINES: dict[str, Any] = {
    "instantid-sd15": StableDiffusionInstantIDPipeline,
    "instantid-sdxl": StableDiffusionXLInstantIDPipeline,
}
STOCK: dict[str, Any] = {
    "instantid-sd15": StableDiffusionPipeline,
    "instantid-sdxl": StableDiffusionXLPipeline,
}
PROMPTS = ["a photo of a smiling man", "a drawing of an old woman with a hat"]


def make(kind: str) -> Any:
    pipe = PIPELINES[kind](**tiny_components(kind))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, kind: str, **overrides: Any) -> np.ndarray:
    return pipe(**tiny_inputs(kind) | overrides)[0]


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.fixture(scope="module", params=list(PIPELINES))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def loaded(kind: str) -> Any:
    return make(kind)


@pytest.fixture
def pipe(loaded: Any) -> Any:
    loaded.identity_scale = 0.5
    return loaded


def test_every_part_of_the_identity_acts(pipe: Any, kind: str) -> None:
    base = draw(pipe, kind)
    other_person = draw(pipe, kind, image_embeds=-tiny_inputs(kind)["image_embeds"])
    other_pose = draw(pipe, kind, image=tiny_inputs(kind)["image"].flip(-1))
    without_net = draw(pipe, kind, controlnet_conditioning_scale=0.0)
    pipe.set_ip_adapter_scale(0.0)
    without_cross = draw(pipe, kind)
    for changed in (other_person, other_pose, without_net, without_cross):
        assert largest(base, changed) > 1e-2


def test_scales_of_zero_are_the_base_bit_for_bit(pipe: Any, kind: str) -> None:
    pipe.set_ip_adapter_scale(0.0)
    ours = draw(pipe, kind, controlnet_conditioning_scale=0.0)
    names = STOCK[kind]._get_signature_keys(STOCK[kind])[0]
    stock = STOCK[kind](**{name: pipe.components[name] for name in names})
    stock.set_progress_bar_config(disable=True)
    inputs = tiny_inputs(kind)
    del inputs["image"], inputs["image_embeds"]
    assert np.array_equal(ours, stock(**inputs, height=64, width=64)[0])


@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_identitynet_sees_the_identity_and_the_unet_the_text(
    pipe: Any, kind: str, guidance: float, guess_mode: bool
) -> None:
    seen: dict[str, list[torch.Tensor]] = {"net": [], "unet": []}
    hook = pipe.unet.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen["unet"].append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    # A hook of ours on the net would run before the pipeline's own, which is added later.
    forward = pipe.controlnet.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen["net"].append(kwargs["encoder_hidden_states"])
        return forward(*args, **kwargs)

    pipe.controlnet.forward = spy
    try:
        draw(pipe, kind, guidance_scale=guidance, guess_mode=guess_mode)
    finally:
        del pipe.controlnet.forward
        hook.remove()
    face = tiny_inputs(kind)["image_embeds"]
    with torch.no_grad():
        nobody, person = pipe.projector(torch.cat([torch.zeros_like(face), face])).split(1)
    expected = torch.cat([nobody, person]) if guidance > 1 and not guess_mode else person
    assert len(seen["net"]) == 2
    for context in seen["net"]:
        assert torch.allclose(context, expected, atol=1e-5)
    for context in seen["unet"]:
        assert context.shape[1] == pipe.tokenizer.model_max_length


@pytest.mark.parametrize("guess_mode", [False, True])
def test_two_prompts_draw_what_each_draws_alone(pipe: Any, kind: str, guess_mode: bool) -> None:
    both = draw(pipe, kind, prompt=PROMPTS, generator=seeds(0, 1), guess_mode=guess_mode)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(pipe, kind, prompt=prompt, generator=seeds(row)[0], guess_mode=guess_mode)
        assert largest(both[row], alone[0]) < 1e-4


def test_a_person_per_prompt(pipe: Any, kind: str) -> None:
    face = tiny_inputs(kind)["image_embeds"]
    people = torch.stack([face, -face])
    pictures = draw(
        pipe, kind, prompt=PROMPTS, image_embeds=people, num_images_per_prompt=2, generator=seeds(0, 1, 2, 3)
    )
    assert pictures.shape[0] == 4
    for row in range(4):
        alone = draw(
            pipe, kind, prompt=PROMPTS[row // 2], image_embeds=people[row // 2], generator=seeds(row)[0]
        )
        assert largest(pictures[row], alone[0]) < 1e-4


def test_several_photos_are_one_person(pipe: Any, kind: str) -> None:
    face = tiny_inputs(kind)["image_embeds"]
    photos = torch.cat([face, face.flip(-1)])
    as_tensor = draw(pipe, kind, image_embeds=photos)
    assert np.array_equal(as_tensor, draw(pipe, kind, image_embeds=list(photos.numpy())))
    assert largest(as_tensor, draw(pipe, kind)) > 1e-3
    # Two prompts and two photos do not become two people.
    both = draw(pipe, kind, prompt=PROMPTS[:1] * 2, image_embeds=photos, generator=seeds(0, 0))
    assert largest(both[0], both[1]) < 1e-5


def test_window_of_identitynet(pipe: Any, kind: str) -> None:
    never = draw(pipe, kind, controlnet_conditioning_scale=0.0)
    base = draw(pipe, kind)
    first = draw(pipe, kind, control_guidance_end=0.5)
    second = draw(pipe, kind, control_guidance_start=0.5)
    outside = draw(pipe, kind, control_guidance_start=0.9, control_guidance_end=0.95)
    assert np.array_equal(outside, never)
    assert min(largest(a, b) for a, b in ((first, base), (second, base), (first, second))) > 1e-4


def test_components_are_untouched_after_a_call_and_after_an_error(pipe: Any, kind: str) -> None:
    before = dict(pipe.unet.attn_processors)

    def fail(*_args: Any) -> dict[str, Any]:
        raise RuntimeError("stopped by the callback")

    draw(pipe, kind)
    with pytest.raises(RuntimeError, match="stopped by the callback"):
        draw(pipe, kind, callback_on_step_end=fail)
    after = pipe.unet.attn_processors
    assert all(after[name] is processor for name, processor in before.items())
    for part in (pipe.unet, pipe.controlnet):
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in part.modules())


@pytest.mark.parametrize("place", [0, 1])
def test_identitynet_among_several_controlnets(kind: str, place: int) -> None:
    parts = tiny_components(kind)
    pose_net = tiny_components(kind, seed=1)["controlnet"]
    nets, scales = [pose_net], [0.0]
    nets.insert(place, parts["controlnet"])
    scales.insert(place, 1.0)
    pipe = PIPELINES[kind](**parts | {"controlnet": nets}, identity_net=place)
    pipe.set_progress_bar_config(disable=True)
    picture = tiny_inputs(kind)["image"]
    one = draw(make(kind), kind)
    two = draw(pipe, kind, image=[picture, picture], controlnet_conditioning_scale=scales)
    assert largest(one, two) < 1e-5
    assert largest(one, draw(pipe, kind, image=[picture, picture])) > 1e-3
    assert pipe.config["identity_net"] == place
    pipe.identity_net = 2
    with pytest.raises(BadInput, match="identity_net is 2, but there are 2 ControlNets"):
        draw(pipe, kind, image=[picture, picture])


def test_control_mask(pipe: Any, kind: str) -> None:
    everywhere, nowhere = np.ones((64, 64), np.float32), np.zeros((64, 64), np.float32)
    whole = draw(pipe, kind)
    assert np.array_equal(draw(pipe, kind, control_mask=everywhere), whole)
    without = draw(pipe, kind, controlnet_conditioning_scale=0.0, ip_adapter_scale=0.0)
    pipe.identity_scale = 0.5
    assert np.array_equal(draw(pipe, kind, control_mask=nowhere), without)
    left = nowhere.copy()
    left[:, :32] = 1.0
    half = draw(pipe, kind, control_mask=left)
    assert largest(half, whole) > 1e-3
    assert largest(half, without) > 1e-3


@pytest.mark.parametrize("guess_mode", [False, True])
def test_control_mask_per_person(pipe: Any, kind: str, guess_mode: bool) -> None:
    face = tiny_inputs(kind)["image_embeds"]
    masks = np.zeros((2, 64, 64), np.float32)
    masks[0, :, :32] = masks[1, :32] = 1.0
    given = {"prompt": PROMPTS, "image_embeds": torch.stack([face, -face]), "guess_mode": guess_mode}
    both = draw(pipe, kind, **given, control_mask=masks, generator=seeds(0, 1))
    for row, (prompt, person) in enumerate(zip(PROMPTS, (face, -face), strict=True)):
        one = {"prompt": prompt, "image_embeds": person, "guess_mode": guess_mode}
        alone = draw(pipe, kind, **one, control_mask=masks[row], generator=seeds(row)[0])
        assert largest(both[row], alone[0]) < 1e-4


@pytest.mark.parametrize(
    ("embeds", "message"),
    [
        (None, "image_embeds is needed"),
        (torch.zeros(1, 128), r"shape \[photos, 512\], got \(1, 128\)"),
        (torch.full((512,), float("nan")), "not finite"),
        ("me.jpg", "must be numbers"),
        (torch.zeros(3, 1, 512), "3 people for 2 prompts"),
    ],
)
def test_bad_face_vectors(pipe: Any, kind: str, embeds: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw(pipe, kind, image_embeds=embeds, prompt=PROMPTS)


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf"), "much"])
def test_bad_scale(pipe: Any, scale: Any) -> None:
    with pytest.raises(BadInput, match="scale"):
        pipe.set_ip_adapter_scale(scale)


def test_arguments_that_mean_nothing_are_refused(pipe: Any, kind: str) -> None:
    with pytest.raises(BadInput, match="takes no argument control_masks"):
        draw(pipe, kind, control_masks=[0.5])


def test_no_identity_without_an_adapter(kind: str) -> None:
    pipe = PIPELINES[kind](**tiny_components(kind) | {"projector": None, "cross_attention": None})
    with pytest.raises(BadInput, match="load_ip_adapter_instantid"):
        draw(pipe, kind)


def published_file(pipe: Any, folder: Any, **parts: Any) -> Any:
    write_published(Published(**parts), folder)
    return folder / "ip-adapter.bin"


def test_checkpoint_of_another_base_is_refused(tmp_path: Any) -> None:
    pipe, other = make("instantid-sd15"), make("instantid-sdxl")
    file = published_file(other, tmp_path, cross_attention=other.cross_attention)
    with pytest.raises(CheckpointError, match="does not fit"):
        pipe.load_ip_adapter_instantid(file)


def test_parts_may_come_in_two_files(kind: str, tmp_path: Any) -> None:
    parts = tiny_components(kind)
    pipe = PIPELINES[kind](**parts | {"cross_attention": None})
    pipe.set_progress_bar_config(disable=True)
    file = published_file(pipe, tmp_path, cross_attention=parts["cross_attention"])
    pipe.load_ip_adapter_instantid(file, image_emb_dim=512, num_tokens=4)
    assert np.array_equal(draw(pipe, kind), draw(make(kind), kind))
    with pytest.raises(BadInput, match="num_tokens 4, not 16"):
        pipe.load_ip_adapter_instantid(file, num_tokens=16)
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        pipe.load_ip_adapter_instantid(tmp_path / "nothing.bin")


def test_an_adapter_loaded_after_offloading_was_switched_on(kind: str, tmp_path: Any) -> None:
    """Offloaded weights lie on the meta device between calls; what is loaded then must not follow them."""
    from accelerate import cpu_offload

    whole = make(kind)
    file = published_file(whole, tmp_path, cross_attention=whole.cross_attention)
    pipe = PIPELINES[kind](**tiny_components(kind) | {"cross_attention": None})
    pipe.set_progress_bar_config(disable=True)
    cpu_offload(pipe.unet, torch.device("cpu"))
    assert pipe.unet.device.type == "meta"
    pipe.load_ip_adapter_instantid(file)
    assert {part.device.type for part in (pipe.projector, pipe.cross_attention)} == {"cpu"}
    assert np.array_equal(draw(pipe, kind), draw(whole, kind))


def test_the_published_name_of_the_projector(pipe: Any, kind: str) -> None:
    """Published apps move the loaded parts by hand: ``pipe.image_proj_model.to("cuda")``."""
    assert pipe.image_proj_model is pipe.projector
    assert set(pipe.components) == set(tiny_components(kind))


def test_no_layer_of_the_projector_is_asked_for_its_weights(loaded: Any) -> None:
    """Quantised layers keep theirs in another type than they compute in, or under another name."""
    projector, face = loaded.projector, torch.ones(1, 512, dtype=torch.float64)
    expected = projector(face)
    plain = projector.proj_in
    projector.proj_in = torch.nn.Sequential(plain)
    try:
        assert torch.equal(projector(face), expected)
    finally:
        projector.proj_in = plain


def test_of_several_photos_nobody_has_as_many() -> None:
    """The published pipeline gives the projector as many zero vectors as photos; so do both ways here."""
    parts = tiny_components("instantid-sd15")
    sizes = {name: parts["projector"].config[name] for name in InstantIDConfig().projector_sizes()}
    adapter = InstantID(
        parts["projector"], parts["cross_attention"], parts["controlnet"], InstantIDConfig(**sizes)
    )
    values = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    three = Identity("face", {"antelopev2": Feature("antelopev2", values)})
    one = Identity("face", {"antelopev2": Feature("antelopev2", values[:1])})
    assert not torch.allclose(adapter.unconditional_tokens([three]), adapter.unconditional_tokens([one]))
    drop_in = StableDiffusionInstantIDPipeline(**parts)
    drop_in.set_progress_bar_config(disable=True)
    inputs = tiny_inputs("instantid-sd15") | {"image_embeds": values, "output_type": "latent"}
    theirs = drop_in(**inputs, ip_adapter_scale=1.0, controlnet_conditioning_scale=0.0).images
    stock = StableDiffusionPipeline(
        **{n: p for n, p in parts.items() if n not in ("controlnet", "projector", "cross_attention")},
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    given = {n: v for n, v in inputs.items() if n not in ("image", "image_embeds")}
    given["generator"] = tiny_inputs("instantid-sd15")["generator"]
    with adapter.attach(stock, three, scale={"net": 0.0}):
        ours = stock(**given, height=64, width=64).images
    assert torch.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(BadInput, match="same number of photos"):
        adapter.attach(stock, [three, one]).__enter__()
