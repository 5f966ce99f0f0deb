"""Muon beside AdamW: who moves what, that a run goes on as it was, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from idpersona.errors import BadInput
from idpersona.training.config import OptimiserConfig, Recipe, parse
from idpersona.training.muon import ExactMuon
from idpersona.training.optimisers import build_optimisers


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 40, 3).to(memory_format=torch.channels_last)
    return nn.ModuleDict({"big": conv, "last": nn.Conv2d(40, 4, 1), "words": nn.Embedding(50, 40)})


def step(module: nn.ModuleDict, optimisers, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(
            memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        )
    optimisers.set_learning_rate(0.1)
    optimisers.step()
    optimisers.zero_grad()
    assert all(p.grad is None for p in module.parameters())


def built(module: nn.ModuleDict, **config):
    return build_optimisers(module, OptimiserConfig(weight_decay=0.0, **config))


@pytest.mark.parametrize("threads", [1, 3])
def test_muon_turns_a_matrix_gradient_into_a_step_of_even_directions(threads):
    module = model()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step(module, built(module, muon=("big", "last")), 1)
    finally:
        torch.set_num_threads(used)
    moved = {n: (p.detach() - before[n]) for n, p in module.named_parameters()}
    # Scaled as AdamW's step: 0.2 of the rate in the root mean square, over all directions alike.
    matrix = moved["big.weight"].reshape(40, -1)
    singular = torch.linalg.svdvals(matrix)
    assert singular.min() > 0.5 * singular.max()
    assert float(matrix.square().mean().sqrt()) == pytest.approx(0.02, rel=0.2)
    # The rest is AdamW's, whose first step is the rate itself.
    for name in ("big.bias", "last.weight", "last.bias", "words.weight"):
        assert torch.allclose(moved[name].abs(), torch.tensor(0.1), rtol=1e-3), name


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_exact_muon_takes_the_steps_of_torchs_in_the_parameters_type(shape):
    torch.manual_seed(0)
    start = torch.randn(shape, dtype=torch.float64)
    gradients = [torch.randn(shape) for _ in range(3)]
    ends = []
    double, single = torch.float64, torch.float32
    for kind, dtype in ((ExactMuon, double), (ExactMuon, single), (torch.optim.Muon, single)):
        matrix = nn.Parameter(start.to(dtype, copy=True))
        optimiser = kind([matrix], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            matrix.grad = gradient.to(matrix.dtype)
            optimiser.step()
        ends.append(matrix.detach().double())
    exact, ours, theirs = ends
    moved = (exact - start).norm()
    assert (ours - exact).norm() < 1e-5 * moved
    assert (theirs - exact).norm() < 2e-2 * moved, "the same steps"
    assert (theirs - exact).norm() > 1e-3 * moved, "of fewer bits: without that, this class has no use"


def test_exact_muon_is_asked_for():
    kinds = [type(o) for o in build_optimisers(model(), OptimiserConfig(muon=("big",)), exact=True).each]
    assert kinds == [torch.optim.AdamW, ExactMuon]
    kinds = [type(o) for o in build_optimisers(model(), OptimiserConfig(muon=("big",))).each]
    assert kinds == [torch.optim.AdamW, torch.optim.Muon]


def test_without_muon_everything_is_adamws():
    module = model()
    before = module["big"].weight.detach().clone()
    step(module, built(module), 1)
    assert torch.allclose((module["big"].weight - before).abs(), torch.tensor(0.1), rtol=1e-3)


def test_the_layout_in_memory_does_not_matter():
    steps, start = [], model()["big"].weight.detach()
    for memory_format in (torch.channels_last, torch.contiguous_format):
        module = model()
        module["big"].to(memory_format=memory_format)
        step(module, built(module, muon=("big",)), 1)
        steps.append(module["big"].weight.detach() - start)
    # The order of a matrix's columns only decides how bfloat16 rounds sums.
    assert (steps[0] - steps[1]).norm() < 0.1 * steps[0].norm()


def test_parameters_may_get_other_memory():
    module, moved = model(), model()
    optimisers = [built(one, muon=("big",)) for one in (module, moved)]
    for parameter in moved.parameters():
        parameter.data = parameter.data.clone()
    for one, optimiser in zip((module, moved), optimisers, strict=True):
        step(one, optimiser, 1)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, moved.get_parameter(name)), name


def test_a_loaded_state_goes_on_as_it_was():
    first, second = model(), model()
    kept, loaded = built(first, muon=("big",)), built(second, muon=("big",))
    step(first, kept, 1)
    second.load_state_dict(first.state_dict())
    loaded.load_state_dict(copy.deepcopy(kept.state_dict()))
    for module, optimisers in ((first, kept), (second, loaded)):
        step(module, optimisers, 2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_factor_scales_the_step_of_its_part():
    module = model()
    before = module["words"].weight.detach().clone()
    step(module, built(module, lr_factors={"words": 0.25}), 1)
    assert torch.allclose((module["words"].weight - before).abs(), torch.tensor(0.025), rtol=1e-3)


def test_the_longest_name_decides():
    module = nn.ModuleDict({"net": nn.ModuleDict({"out": nn.Linear(2, 2), "outer": nn.Linear(2, 2)})})
    factors = {"net": 0.5, "net.out": 0.25}
    optimisers = built(module, lr_factors=factors)
    groups = {g["factor"]: len(g["params"]) for o in optimisers.each for g in o.param_groups}
    assert groups == {0.25: 2, 0.5: 2}
    assert {p.data_ptr() for p in optimisers.each[0].param_groups[0]["params"]} == {
        p.data_ptr() for p in module["net"]["out"].parameters()
    }
    with pytest.raises(BadInput, match=r"net\.ou$"):
        built(module, muon=("net.ou",))


@pytest.mark.parametrize("field", [{"muon": ("unet",)}, {"lr_factors": {"unet": 0.5}}])
def test_a_part_that_is_not_trained_is_refused(field):
    with pytest.raises(BadInput, match=f"{next(iter(field))}: nothing is trained in unet"):
        built(model(), **field)


def test_muon_in_fp16_is_refused():
    raw = {"name": "x", "objective": {}, "output": "x", "optimiser": {"muon": ["unet"]}}
    with pytest.raises(BadInput, match="precision bf16"):
        parse(Recipe, raw | {"loop": {"steps": 1, "batch_size": 1, "precision": "fp16"}}, "recipe")
    assert parse(Recipe, raw | {"loop": {"steps": 1, "batch_size": 1}}, "recipe").optimiser.muon == ("unet",)
