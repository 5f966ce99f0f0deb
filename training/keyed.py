"""Randomness keyed by (seed, step, sample index): it does not matter who computes a sample, or when.

A stateful generator would have to be saved for resuming, and would differ with the number of processes. A
counter based generator (Philox, Salmon et al., SC 2011) has no history: each sample of each step gets its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class StepKey:
    """Names one optimisation step of one run, and the samples of it that this process computes.

    Attributes:
        seed: seed of the run.
        step: number of the step, from 0.
        indices: global sample indices within the step, for example ``range(rank * 8, rank * 8 + 8)``.
        total: samples of the whole step, over all processes.
    """

    seed: int
    step: int
    indices: Sequence[int]
    total: int

    def rng(self, index: int, stream: int = 0) -> np.random.Generator:
        """The generator of one sample; ``stream`` separates purposes (data choice, noise, dropout)."""
        key = np.array([(self.seed << 32) | self.step, (stream << 32) | index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def normal(self, shape: tuple[int, ...], stream: int) -> torch.Tensor:
        """Standard normal noise float32 [len(indices), *shape]."""
        rows = [self.rng(i, stream).standard_normal(shape, dtype=np.float32) for i in self.indices]
        return torch.from_numpy(np.stack(rows))

    def shared(self) -> np.random.Generator:
        """A generator that is the same for all samples and processes of the step."""
        return np.random.default_rng([self.seed, self.step])

    def strata(self) -> np.ndarray:
        """Stratum of each sample, int64 [len(indices)]: over the whole step a permutation of range(total)."""
        order = self.shared().permutation(self.total)
        return order[np.asarray(self.indices)]


def seed_modules(key: StepKey) -> None:
    """Seed torch for what modules draw themselves in this step (dropout), the same after a resumption.

    Such draws are the only ones that do depend on how many processes share a step.
    """
    first = key.indices[0] if key.indices else 0
    torch.manual_seed(int(np.random.default_rng([key.seed, key.step, first]).integers(2**62)))
