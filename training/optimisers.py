"""The optimiser of a run: AdamW for everything, or Muon for the weight matrices and AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) orthogonalises the momentum of a matrix,
so that its rare directions move as fast as its common ones; its step is scaled to AdamW's (Liu et al.,
arXiv:2502.16982), hence one learning rate serves both. A convolution counts as the matrix [out, everything
else].
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from idpersona.errors import BadInput, MissingWeights
from idpersona.training.config import OptimiserConfig
from idpersona.training.muon import ExactMuon
from idpersona.training.sharding import part_of

SMALLEST = 32
"""Matrices with a shorter side (the last layer, heads) are left to AdamW, as Muon's authors advise.

They would leave it the first layer, too; as [out, in x kernel] that is large enough here.
"""
SHARES = 4
"""Into how many optimisers Muon's matrices are dealt, so that as many CPU cores can work side by side."""


def build_optimisers(module: nn.Module, config: OptimiserConfig, *, exact: bool = False) -> Optimisers:
    """The optimisers of ``module``'s trained parameters.

    ``exact``: Muon computes in the parameters' type, not in bfloat16.

    Raises BadInput when ``lr_factors`` or ``muon`` names a part that has no trained parameter, and
    MissingWeights when ``eight_bit`` needs a package that is not here.
    """
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    for field, parts in (("lr_factors", config.lr_factors), ("muon", config.muon)):
        if unused := sorted(part for part in parts if not any(_part_of(n, [part]) for n in trained)):
            raise BadInput(f"optimiser.{field}: nothing is trained in {', '.join(unused)}")
    matrices = {n: p for n, p in trained.items() if _part_of(n, config.muon) and _suits_muon(p)}
    rest = {n: p for n, p in trained.items() if n not in matrices}
    optimisers: list[torch.optim.Optimizer] = []
    aliases: list[tuple[nn.Parameter, nn.Parameter]] = []
    if rest:
        kind, options = _adamw(config)
        optimisers.append(
            kind(
                _groups(rest.items(), config),
                lr=config.lr,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
                **options,
            )
        )
    if matrices:
        muon = ExactMuon if exact else torch.optim.Muon
        flat = {name: nn.Parameter(_matrix(p.detach(), p)) for name, p in matrices.items()}
        aliases = [(p, flat[name]) for name, p in matrices.items()]
        for n in range(min(SHARES, len(flat))):
            optimisers.append(
                muon(
                    _groups(list(flat.items())[n::SHARES], config),
                    lr=config.lr,
                    weight_decay=config.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
    return Optimisers(optimisers, aliases)


class Optimisers:
    """Several optimisers that take their steps together.

    Attributes:
        each: the optimisers; accelerate's, once they are prepared.
    """

    def __init__(self, optimisers: list[Any], aliases: list[tuple[nn.Parameter, nn.Parameter]]):
        """``aliases``: parameter, and the matrix through which one of the optimisers moves it."""
        self.each = optimisers
        self._aliases = aliases
        # Kept beside the groups, which are those of the checkpoint after a resumption.
        self._factors = [[group["factor"] for group in o.param_groups] for o in optimisers]

    def set_learning_rate(self, lr: float) -> None:
        """``lr`` times each group's factor."""
        for optimiser, factors in zip(self.each, self._factors, strict=True):
            for group, factor in zip(optimiser.param_groups, factors, strict=True):
                group["lr"] = lr * factor

    def step(self) -> None:
        for parameter, matrix in self._aliases:
            # Anew each time: accelerate gives parameters other memory when it prepares several CPU processes.
            matrix.data = _matrix(parameter.detach(), parameter)
            matrix.grad = None if parameter.grad is None else _matrix(parameter.grad, parameter)
        threads = torch.get_num_threads()
        if threads == 1 or any(p.is_cuda for p, _ in self._aliases):
            for optimiser in self.each:
                optimiser.step()
            return
        # On a CPU the matrices are too small for several cores to work on one: each core takes whole ones.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in [pool.submit(o.step) for o in self.each]:
                done.result()
        torch.set_num_threads(threads)

    def zero_grad(self) -> None:
        for parameter, matrix in self._aliases:
            parameter.grad = matrix.grad = None
        for optimiser in self.each:
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [o.state_dict() for o in self.each]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """``states`` with whole tensors; of those of a sharded parameter each process takes its part."""
        for optimiser, state in zip(self.each, states, strict=True):
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            moments = {
                n: {k: part_of(v, parameters[n]) if isinstance(v, Tensor) else v for k, v in values.items()}
                for n, values in state["state"].items()
            }
            optimiser.load_state_dict({**state, "state": moments})


def _adamw(config: OptimiserConfig) -> tuple[Any, dict[str, Any]]:
    if not config.eight_bit:
        return torch.optim.AdamW, {"fused": True}
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingWeights("optimiser.eight_bit needs bitsandbytes: pip install bitsandbytes") from error
    return AdamW8bit, {}


def _part_of(name: str, parts: Iterable[str]) -> str | None:
    """The longest of ``parts`` that a parameter's name starts with, component by component."""
    return max((p for p in parts if f"{name}.".startswith(f"{p}.")), key=len, default=None)


def _suits_muon(parameter: Tensor) -> bool:
    return parameter.ndim in (2, 4) and min(parameter.shape[0], parameter[0].numel()) >= SMALLEST


def _matrix(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` [out, ...] as [out, everything else], its columns in the order of ``parameter``'s memory.

    Over the same memory where ``value`` lies there as ``parameter`` does.
    """
    if parameter.ndim == 4 and not parameter.is_contiguous():
        value = value.permute(0, 2, 3, 1)
    return value.reshape(value.shape[0], -1)


def _groups(parameters: Iterable[tuple[str, nn.Parameter]], config: OptimiserConfig) -> list[dict[str, Any]]:
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        part = _part_of(name, config.lr_factors)
        groups.setdefault(config.lr_factors[part] if part else 1.0, []).append(parameter)
    return [{"params": p, "factor": factor} for factor, p in groups.items()]
