"""Everything about a GPU in one call: ``python benchmarks/gpu.py -o gpu.json``.

Runs the contract's tests on the accelerator, then measures every method that has weights for the embedded
model: fp16 and bf16 against fp32, time per step with and without the adapter, peak memory. Times are ratios
within this run; nothing is asserted but what must hold on any device.
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

from idpersona.identity import Identity

METHODS = ("instantid", "infinite-id", "wplus", "anymaker")


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


def measure(method: str, me: Any, references: dict[str, np.ndarray]) -> dict[str, Any]:
    """One method on the embedded model in each number type."""
    from idpersona.adapters import load_adapter
    from idpersona.pipelines import load_base

    result: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        pipe: Any = load_base("mini", device="cuda", dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        adapter = load_adapter(method, base="mini", device="cuda", dtype=dtype)
        pictures = draw(pipe, adapter, me, 20, 4)
        if not np.isfinite(pictures).all():
            raise SystemExit(f"{method}, {dtype}: pictures are not finite")
        reference = references.setdefault(method, pictures)
        torch.cuda.reset_peak_memory_stats()
        base, attached = (milliseconds_per_step(pipe, adapter, who, 4) for who in (None, me))
        result[str(dtype).removeprefix("torch.")] = {
            "mean_difference_to_float32": float(np.abs(pictures - reference).mean()),
            "ms_per_step_base": base,
            "ms_per_step_attached": attached,
            "cost": round(attached / base, 3),
            "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1),
        }
    return result


def measure_edits() -> dict[str, Any]:
    """Every inversion on the embedded model in each number type: what comes back of a photo, and seconds."""
    from idpersona.errors import BadInput
    from idpersona.eval.autoencoder import roundtrip
    from idpersona.eval.pictures import psnr
    from idpersona.images import open_photo
    from idpersona.pipelines import edit, invert, load_base
    from idpersona.pipelines.inversion.methods import METHODS as INVERSIONS

    result: dict[str, Any] = {}
    photo, prompt = open_photo("sample:person-1").resize((128, 128)), "a photo of a woman"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        pipe: Any = load_base("mini", device="cuda", dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        ceiling = roundtrip(pipe, [photo])[0]
        for name in INVERSIONS:
            key = f"{name} {str(dtype).removeprefix('torch.')}"
            try:
                start = time.perf_counter()
                record = invert(pipe, photo, prompt, method=name, steps=50)
                seconds = time.perf_counter() - start
                back = edit(pipe, record, "a photo of a smiling woman").sources[0]
                result[key] = {"seconds": round(seconds, 2), "dB": round(psnr(ceiling, back), 2)}
            except BadInput as error:
                result[key] = {"refused": str(error)}
    return result


def measure_all() -> dict[str, Any]:
    """Every method, each on the sample astronaut."""
    from idpersona.adapters import load_adapter

    references: dict[str, np.ndarray] = {}
    return {
        method: measure(method, load_adapter(method, base="mini").read("sample:astronaut"), references)
        for method in METHODS
    }


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
        "mini": measure_all(),
        "edits": measure_edits(),
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
