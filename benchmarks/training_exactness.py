"""Does a training of InstantID on the embedded model end where it should, whatever happens to it?

    python benchmarks/training_exactness.py [--steps 20] [--batch 8] [--kills 10] [--only kills]

Two processes by ``accelerate launch`` must end where one does with the doubled batch (to 1e-4, float32): by
the denoising error and AdamW, with the identity loss beside it, and with the whole recipe (Muon, too). An
identity loss makes more of rounding: its face network has edges (where two pixels are as good as equal,
either may be the largest of its neighbours).

A run that is killed at random moments (SIGKILL), and one that is told to end (SIGTERM), must after
``--resume`` end where the one ends that nobody disturbed, bit for bit. Needs the prepared photos
(``python -m idpersona.training.data.prepare``). Exits with 1 where one of them does not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from idpersona.training.run import recipe_file

TRAIN = [sys.executable, "-m", "idpersona.training"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
PLAIN = {"objective": {"likeness": 0.0}, "optimiser": {"muon": []}}
ADAMW = {"optimiser": {"muon": []}}
WHOLE: dict[str, Any] = {}


def write_recipe(place: Path, name: str, steps: int, batch: int, changes: dict[str, Any]) -> Path:
    """The built-in recipe, shorter, in float32 and without samples."""
    recipe = yaml.safe_load(recipe_file("instantid").read_text())
    recipe.pop("samples", None)
    loop = {"steps": steps, "batch_size": batch, "precision": "no", "save_every": 3, "log_every": 1}
    recipe["loop"] |= loop | {"threads": 1, "trackers": []}
    recipe["objective"] |= changes.get("objective", {})
    recipe["optimiser"] |= changes.get("optimiser", {})
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(command: list[str]) -> None:
    process = start(command)
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: {err[-3000:]}")


def until(process: subprocess.Popen[str], step: int) -> None:
    """Wait until a run has reported ``step``, or has ended."""
    assert process.stderr is not None
    for line in process.stderr:
        if any(f"step {n}/" in line for n in range(step, step + 100)):
            return


def weights(output: Path, steps: int) -> dict[str, torch.Tensor]:
    last = output / "checkpoints" / f"step-{steps}"
    found = {f"ema.{name}": value for name, value in load_file(last / "ema.safetensors").items()}
    return found | load_file(last / "weights.safetensors")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two numbers in the same place."""
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def processes(place: Path, steps: int, batch: int) -> bool:
    runs = {"denoising error, AdamW": PLAIN, "with the identity loss": ADAMW, "and Muon, the recipe": WHOLE}
    found: list[float] = []
    for n, (name, changes) in enumerate(runs.items()):
        recipe = write_recipe(place, f"processes-{n}", steps, batch, changes)
        one, two = place / f"one-{n}", place / f"two-{n}"
        finish([*TRAIN, str(recipe), "--output", str(one)])
        finish([*ACCELERATE, "--num_processes", "2", *TRAIN[1:], str(recipe), "--output", str(two)])
        found.append(apart(weights(one, steps), weights(two, steps)))
        print(f"two processes, {name}: largest difference {found[-1]:.2e}", flush=True)
    return max(found) <= 1e-4


def kills(place: Path, recipe: Path, steps: int, wanted: dict[str, torch.Tensor], count: int) -> bool:
    rng, output = random.Random(0), place / "killed"
    command = [*TRAIN, str(recipe), "--output", str(output)]
    reached = []
    for n in range(count):
        process = start([*command, *(["--resume"] if n else [])])
        # Somewhere within the steps that are left for this kill, and somewhere within a step.
        until(process, max(1, round(steps * (n + rng.random()) / count)))
        time.sleep(rng.random() * 2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = sorted((output / "checkpoints").glob("step-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
        reached.append(kept[-1].name if kept else "nothing")
    finish([*command, "--resume"])
    found = apart(wanted, weights(output, steps))
    print(f"{count} kills, which left {', '.join(reached)}: largest difference {found}", flush=True)
    return found == 0


def told_to_end(place: Path, recipe: Path, steps: int, wanted: dict[str, torch.Tensor]) -> bool:
    output = place / "told"
    command = [*TRAIN, str(recipe), "--output", str(output)]
    process = start(command)
    until(process, steps // 2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    status = process.returncode
    finish([*command, "--resume"])
    found = apart(wanted, weights(output, steps))
    print(f"SIGTERM: exit status {status}, {err.splitlines()[-1]}", flush=True)
    print(f"SIGTERM: largest difference {found}", flush=True)
    return status == 143 and found == 0


def main() -> int:
    """Run all of it, or one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", choices=("processes", "kills", "signal"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        good = [processes(place, given.steps, given.batch)] if given.only in (None, "processes") else []
        if given.only != "processes":
            recipe = write_recipe(place, "recipe", given.steps, given.batch, WHOLE)
            finish([*TRAIN, str(recipe), "--output", str(place / "one")])
            wanted = weights(place / "one", given.steps)
            if given.only in (None, "kills"):
                good.append(kills(place, recipe, given.steps, wanted, given.kills))
            if given.only in (None, "signal"):
                good.append(told_to_end(place, recipe, given.steps, wanted))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
