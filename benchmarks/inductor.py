"""InstantID on the embedded model under ``torch.compile`` with inductor: ``python benchmarks/inductor.py``.

The UNet is compiled as a whole (``torch.compile``) and block by block (``compile_repeated_blocks``), both
without a graph break; pictures with the adapter must be those of the uncompiled model, and after detaching
those of the base. Fails when they are not. Times are per step, as ratios to the uncompiled model in the same
process. Needs a C++ compiler on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from idpersona.adapters import load_adapter
from idpersona.identity import Identity
from idpersona.pipelines import load_base

TOLERANCE = 2e-2
"""Largest difference of a pixel in 0..1: the compiled kernels round otherwise, and 25 steps carry it on."""


def load(device: str, compiled: str) -> Any:
    """The embedded base; ``compiled`` is ``no``, ``whole`` or ``blocks``."""
    pipe: Any = load_base("mini", device=device, dtype="fp32")
    pipe.set_progress_bar_config(disable=True)
    if compiled == "whole":
        pipe.unet = torch.compile(pipe.unet, fullgraph=True)
    if compiled == "blocks":
        pipe.unet.compile_repeated_blocks(fullgraph=True)
    return pipe


def draw(pipe: Any, steps: int) -> np.ndarray:
    """Two pictures of the same two seeds, float32 [2, H, W, 3]."""
    noise = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    prompts = ["a photo of a person"] * 2
    return pipe(prompts, num_inference_steps=steps, generator=noise, output_type="np").images


def seconds_per_step(work: Callable[[], object], steps: int) -> float:
    """Median of five calls after one to warm up."""
    work()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) / steps)
    return statistics.median(times)


def measure(device: str, steps: int, me: Identity) -> bool:
    """Print one line for each way of compiling; whether all pictures were right."""
    adapter = load_adapter("instantid", base="mini", device=device, dtype="fp32")
    wanted: dict[str, np.ndarray] = {}
    plain = 0.0
    right = True
    for compiled in ("no", "whole", "blocks"):
        torch.compiler.reset()
        pipe = load(device, compiled)
        with adapter.attach(pipe, [me, me]):
            drawn = {"with": draw(pipe, steps)}
            seconds = seconds_per_step(lambda pipe=pipe: draw(pipe, steps), steps)
        drawn["without"] = draw(pipe, steps)
        wanted = wanted or drawn
        plain = plain or seconds
        worst = {name: float(np.abs(drawn[name] - wanted[name]).max()) for name in wanted}
        right = right and max(worst.values()) <= TOLERANCE
        print(
            f"compiled {compiled:6}: {1000 * seconds:7.1f} ms per step (x {seconds / plain:.2f}), "
            f"largest difference with the adapter {worst['with']:.1e}, after it {worst['without']:.1e}",
            flush=True,
        )
    return right


def main() -> int:
    """Command line; 1 when a compiled model draws something else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    from idpersona import read_identity

    return 0 if measure(arguments.device, arguments.steps, read_identity("sample:astronaut")) else 1


if __name__ == "__main__":
    sys.exit(main())
