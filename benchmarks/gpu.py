"""Everything about a GPU in one call: ``python benchmarks/gpu.py -o gpu.json``.

Runs the tests that need an accelerator, then measures InstantID on the embedded model: fp16 and
bf16 against fp32, time per step with and without the adapter, peak memory. Times are
ratios within this run; nothing is asserted but what must hold on any device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from idpersona.identity import Feature, Identity


def person(encoder: str, dim: int, size: int) -> Identity:
    """A made-up identity with a face in the middle of the canvas."""
    points = np.array([[0.35, 0.47], [0.65, 0.47], [0.5, 0.64], [0.38, 0.8], [0.62, 0.8]], np.float32) * size
    values = np.random.default_rng(0).standard_normal((1, dim)).astype(np.float32) * 0.1
    return Identity(
        "face", {encoder: Feature(encoder=encoder, values=values)}, keypoints=points, image_size=(size, size)
    )


def draw(pipe: Any, adapter: Any, me: Identity | None, steps: int, batch: int) -> np.ndarray:
    """Pictures of one call, float32 [batch, H, W, 3]."""
    prompt = ["a photo of a person"] * batch
    generator = [torch.Generator().manual_seed(i) for i in range(batch)]
    settings = {"num_inference_steps": steps, "generator": generator, "output_type": "np"}
    if me is None:
        return pipe(prompt, **settings).images
    with adapter.attach(pipe, [me] * batch):
        return pipe(prompt, **settings).images


def milliseconds_per_step(
    pipe: Any, adapter: Any, me: Identity | None, batch: int, repeats: int = 5
) -> float:
    """Median over ``repeats`` calls of 20 steps, after one call to warm up."""
    draw(pipe, adapter, me, 4, batch)
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        draw(pipe, adapter, me, 20, batch)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000 / 20)
    return round(statistics.median(times), 3)


def measure_mini() -> dict[str, Any]:
    """The embedded model in each number type."""
    from idpersona.adapters import load_adapter
    from idpersona.pipelines import load_base

    result: dict[str, Any] = {}
    reference: np.ndarray | None = None
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        pipe: Any = load_base("mini", device="cuda", dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        adapter = load_adapter("instantid", base="mini", device="cuda", dtype=dtype)
        me = person("dlib", 128, 128)
        pictures = draw(pipe, adapter, me, 20, 4)
        reference = pictures if reference is None else reference
        torch.cuda.reset_peak_memory_stats()
        result[str(dtype).removeprefix("torch.")] = {
            "mean_difference_to_float32": float(np.abs(pictures - reference).mean()),
            "ms_per_step_base": milliseconds_per_step(pipe, adapter, None, 4),
            "ms_per_step_instantid": milliseconds_per_step(pipe, adapter, me, 4),
            "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1),
        }
        if not np.isfinite(pictures).all():
            raise SystemExit(f"{dtype}: pictures are not finite")
    return result


def main() -> int:
    """Command line; exits with the tests' status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device here", file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parents[1]
    tests = subprocess.run([sys.executable, "-m", "pytest", "tests/contract", "-rs"], cwd=root)
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tests_status": tests.returncode,
        "mini": measure_mini(),
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
