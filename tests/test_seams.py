"""The seams by themselves, on small real models."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.errors import SeamError
from idpersona.seams.call import Call, call_scope
from idpersona.seams.cross import cross_layers, cross_scope
from idpersona.seams.host import HostProcessor
from idpersona.seams.residual import ControlNetBranch, residual_scope
from idpersona.seams.scope import attach_scope
from idpersona.seams.tokens import TokenBranch
from idpersona.testing import tiny_components

WIDTH, TOKENS = 24, 4


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def cross(unet: UNet2DConditionModel) -> IdentityCrossAttention:
    torch.manual_seed(1)
    return IdentityCrossAttention.from_unet(unet, copy_weights=True)


def batch(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(rows, 4, 16, 16, generator=generator)
    return sample, torch.tensor(500), torch.randn(rows, 7, WIDTH, generator=generator)


def tokens(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, TOKENS, WIDTH, generator=torch.Generator().manual_seed(3))


# training ---------------------------------------------------------------------------------------------------


def test_gradients_reach_projector_cross_attention_and_row_gates(unet: Any, cross: Any) -> None:
    projector = InstantIDProjector(16, 32, 2, 8, 2, TOKENS, WIDTH, 2)
    gates = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    base = unet(*batch()).sample
    branch = TokenBranch(cross, projector(torch.randn(3, 16)), scale=gates)
    with cross_scope(unet, [branch]):
        out = unet(*batch()).sample
        torch.testing.assert_close(out[0], base[0])
        assert not torch.allclose(out[1], base[1], atol=1e-2)
        out.square().mean().backward()
    assert gates.grad is not None and (gates.grad != 0).all()
    for module in (projector, cross):
        for name, weight in module.named_parameters():
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    assert all(weight.grad is None for weight in unet.parameters())
    cross.zero_grad(set_to_none=True)


def test_a_training_step_sees_the_weights_of_now(unet: Any) -> None:
    """No keys and values are kept while gradients are recorded."""
    own = IdentityCrossAttention.from_unet(unet, copy_weights=True)
    with cross_scope(unet, [TokenBranch(own, tokens())]):
        first = unet(*batch()).sample
        with torch.no_grad():
            for weight in own.parameters():
                weight.mul_(-1)
        assert not torch.allclose(unet(*batch()).sample, first, atol=1e-3)


def test_copied_weights_are_the_bases_own(unet: Any, cross: Any) -> None:
    """A branch on the text's own context doubles the text result; copied weights make that exact."""
    sample, step, text = batch()
    seen = []
    layer = cross_layers(unet)[cross.layers[0]]
    handle = layer.to_out[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        unet(sample, step, text)
        with cross_scope(unet, [TokenBranch(cross, text)]):
            unet(sample, step, text)
    handle.remove()
    torch.testing.assert_close(seen[1], 2 * seen[0])


# caching ----------------------------------------------------------------------------------------------------


class Counting(IdentityCrossAttention):
    """Counts how often keys and values are computed."""

    count = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        type(self).count += 1
        return super().forward(*args, **kwargs)


def test_keys_and_values_are_computed_once_until_the_tokens_change(unet: Any, cross: Any) -> None:
    own = Counting(cross.config["geometry"])
    Counting.count = 0
    branch = TokenBranch(own, tokens())
    with torch.no_grad(), cross_scope(unet, [branch]):
        first = unet(*batch()).sample
        unet(*batch())
        assert Counting.count == 1
        branch.tokens.mul_(-1)  # in place: same object, new content
        second = unet(*batch()).sample
        assert Counting.count == 2 and not torch.allclose(first, second, atol=1e-4)
        branch.tokens = branch.tokens.clone()  # another object with the same content
        assert torch.equal(unet(*batch()).sample, second)
        assert Counting.count == 3


def test_the_cache_holds_the_tokens_themselves_and_lets_go_of_them(unet: Any, cross: Any) -> None:
    mine = tokens()
    alive = weakref.ref(mine)
    branch = TokenBranch(cross, mine)
    with torch.no_grad(), cross_scope(unet, [branch]):
        unet(*batch())
        branch.tokens = tokens(1)
        del mine
        gc.collect()
        assert alive() is not None
    gc.collect()
    assert alive() is None


def test_tokens_made_in_inference_mode(unet: Any, cross: Any) -> None:
    with torch.inference_mode(), cross_scope(unet, [TokenBranch(cross, tokens())]):
        assert torch.equal(unet(*batch()).sample, unet(*batch()).sample)


# hosts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", [AttnProcessor2_0(), AttnProcessor(), SlicedAttnProcessor(2)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_host_repeats_stock_processors_bit_for_bit(
    unet: Any, cross: Any, processor: Any, masked: bool
) -> None:
    stock = unet.attn_processors
    unet.set_attn_processor(processor)
    sample, step, text = batch()
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 0]] * 3) if masked else None
    nothing = torch.zeros(1, 1, 16, 16)
    try:
        with torch.no_grad():
            expected = unet(sample, step, text, encoder_attention_mask=mask).sample
            with cross_scope(unet, [TokenBranch(cross, tokens(), mask=nothing)]):
                hosts = [a for a in cross_layers(unet).values() if isinstance(a.processor, HostProcessor)]
                assert len(hosts) == len(cross.layers)
                assert torch.equal(unet(sample, step, text, encoder_attention_mask=mask).sample, expected)
        assert all(p is processor for p in unet.attn_processors.values())
    finally:
        unet.set_attn_processor(dict(stock))


class Unknown(AttnProcessor2_0):
    """Not known to us (no exact class), the same arithmetic."""


def test_hooks_and_host_agree(unet: Any, cross: Any) -> None:
    stock = unet.attn_processors
    with torch.no_grad():
        with cross_scope(unet, [TokenBranch(cross, tokens(), scale=0.7)]):
            expected = unet(*batch()).sample
        mine = Unknown()
        unet.set_attn_processor(mine)
        try:
            with cross_scope(unet, [TokenBranch(cross, tokens(), scale=0.7)]):
                assert all(p is mine for p in unet.attn_processors.values())
                assert torch.equal(unet(*batch()).sample, expected)
        finally:
            unet.set_attn_processor(dict(stock))


class PastTheLayer:
    """A processor that does not use the layer's modules."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        return hidden_states


class QueryOnly(PastTheLayer):
    """One that computes a query and then goes its own way."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        return hidden_states + attn.to_q(hidden_states)


class TwoQueries(AttnProcessor2_0):
    """One that projects a part of the queries last, so that the last query is not the result's."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        attn.to_q(hidden_states)
        attn.to_q(hidden_states[:, :1])
        return attn.to_out[0](hidden_states)


@pytest.mark.parametrize("kind", [PastTheLayer, QueryOnly, TwoQueries])
def test_a_processor_that_passes_by_is_refused_by_name(unet: Any, cross: Any, kind: Any) -> None:
    stock = unet.attn_processors
    layer = cross.layers[-1]
    unet.get_submodule(layer).processor = kind()
    try:
        with (
            pytest.raises(SeamError, match=f"{kind.__name__} in {layer}"),
            torch.no_grad(),
            cross_scope(unet, [TokenBranch(cross, tokens())]),
        ):
            unet(*batch())
    finally:
        unet.set_attn_processor(dict(stock))


def test_a_layer_that_does_not_exist_is_named(unet: Any, cross: Any) -> None:
    other = IdentityCrossAttention({"up_blocks.9.attn2": (8, WIDTH)})
    with (
        pytest.raises(SeamError, match=r"up_blocks\.9\.attn2"),
        cross_scope(unet, [TokenBranch(other, tokens())]),
    ):
        pytest.fail("the scope was entered")
    assert not any(isinstance(p, HostProcessor) for p in unet.attn_processors.values())


# guidance and steps ----------------------------------------------------------------------------------------


def test_guidance_is_read_from_the_pipeline_not_from_the_batch(unet: Any) -> None:
    class NoAnswer:
        scheduler = None

    with pytest.raises(SeamError, match="NoAnswer"), call_scope(unet, NoAnswer()):
        pytest.fail("the scope was entered")


def test_a_window_without_a_pipeline_is_refused(unet: Any, cross: Any) -> None:
    with (
        pytest.raises(SeamError, match="pipeline"),
        torch.no_grad(),
        cross_scope(unet, [TokenBranch(cross, tokens(), start=0.5)]),
    ):
        unet(*batch())


# residual ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(unet: UNet2DConditionModel) -> ControlNetModel:
    torch.manual_seed(4)
    model = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return model.eval().requires_grad_(False)


def test_residuals_equal_those_given_by_hand_and_sum_with_those_there(unet: Any, net: Any) -> None:
    sample, step, text = batch()
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        own = net(sample, step, tokens(), picture.expand(3, -1, -1, -1), 0.6, return_dict=False)
        there = net(sample, step, text, picture.expand(3, -1, -1, -1), 0.3, return_dict=False)
        names = ("down_block_additional_residuals", "mid_block_additional_residual")
        expected = unet(sample, step, text, **dict(zip(names, own, strict=True))).sample
        summed = (tuple(a + b for a, b in zip(there[0], own[0], strict=True)), there[1] + own[1])
        expected_sum = unet(sample, step, text, **dict(zip(names, summed, strict=True))).sample
        branch = ControlNetBranch(net, picture, tokens=tokens(), scale=0.6)
        with residual_scope(unet, [branch]):
            assert torch.equal(unet(sample, step, text).sample, expected)
            given = dict(zip(names, there, strict=True))
            assert torch.equal(unet(sample, step, text, **given).sample, expected_sum)
            positional = (None,) * 5 + there  # all arguments before the residuals, then both
            assert torch.equal(unet(sample, step, text, *positional).sample, expected_sum)
        assert not torch.allclose(expected, unet(sample, step, text).sample, atol=1e-3)


def test_two_residual_branches_sum(unet: Any, net: Any) -> None:
    sample, step, text = batch()
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    half = [ControlNetBranch(net, picture, tokens=tokens(), scale=0.5) for _ in range(2)]
    with torch.no_grad():
        with residual_scope(unet, half):
            two = unet(sample, step, text).sample
        with residual_scope(unet, [ControlNetBranch(net, picture, tokens=tokens(), scale=1.0)]):
            torch.testing.assert_close(two, unet(sample, step, text).sample)


def test_t2i_residuals_are_left_to_the_model(unet: Any, net: Any) -> None:
    sample, step, text = batch()
    picture = torch.rand(1, 3, 32, 32)
    state = [torch.rand(3, 32, 8, 8) * 0.1, torch.rand(3, 64, 8, 8) * 0.1]

    def fresh() -> list[torch.Tensor]:
        return [x.clone() for x in state]

    with torch.no_grad():
        down, mid = net(sample, step, tokens(), picture.expand(3, -1, -1, -1), return_dict=False)
        expected = unet(
            sample,
            step,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            down_intrablock_additional_residuals=fresh(),
        ).sample
        with residual_scope(unet, [ControlNetBranch(net, picture, tokens=tokens())]):
            assert torch.equal(
                unet(sample, step, text, down_block_additional_residuals=fresh()).sample, expected
            )


def test_a_mask_bounds_residuals(unet: Any, net: Any) -> None:
    sample, step, text = batch()
    left = torch.zeros(1, 1, 32, 32)
    left[..., :16] = 1
    branch = ControlNetBranch(net, torch.rand(1, 3, 32, 32), tokens=tokens(), mask=left)
    inputs = {"sample": sample, "timestep": step, "encoder_hidden_states": text}
    with torch.no_grad():
        found = branch.residuals(inputs, Call(rows=3, size=(16, 16)))
    assert found is not None
    for residual in (*found[0], found[1]):
        half = residual.shape[-1] // 2
        assert residual[..., half:].eq(0).all() and residual[..., :half].ne(0).any()


def test_a_model_without_residuals_is_refused() -> None:
    model = tiny_components("sd15")["vae"]
    with pytest.raises(SeamError, match="AutoencoderKL"), residual_scope(model, []):
        pytest.fail("the scope was entered")
    with pytest.raises(SeamError, match="has no unet"), attach_scope(model):
        pytest.fail("the scope was entered")


def test_beside_the_pipelines_own_controlnet() -> None:
    """On a stock ControlNet pipeline both nets act, and the stock one goes on seeing the text."""
    parts = tiny_components("instantid-sd15")
    projector, cross_attention = parts.pop("projector"), parts.pop("cross_attention")
    pipe = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(6))

    def draw() -> torch.Tensor:
        call: dict[str, Any] = {"height": 64, "width": 64, "output_type": "latent", "num_inference_steps": 2}
        return pipe("a man", image=picture, generator=torch.Generator().manual_seed(7), **call).images

    base = draw()
    with torch.no_grad():
        face, nobody = projector(torch.ones(1, 512)), projector(torch.zeros(1, 512))
    outputs = [base]
    for branches in (
        {"cross": [TokenBranch(cross_attention, face, unconditional=nobody)]},
        {"residual": [ControlNetBranch(parts["controlnet"], picture, tokens=face, unconditional=nobody)]},
    ):
        with attach_scope(pipe, **branches):
            outputs.append(draw())
    assert torch.equal(draw(), base)
    assert all(
        not torch.allclose(a, b, atol=1e-3) for a, b in zip(outputs, [*outputs[1:], base], strict=True)
    )
