"""Two processes that share each batch end where one does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from idpersona.training.run import run_recipe
from idpersona.training.setting import Resolved

STEPS = 2
SAMPLES = {"every": 2, "prompts": ["a man"], "photos": ["sample:person-1"], "steps": 2}


LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
LAUNCHES = {
    "accelerate": [*LAUNCH, "--num_processes", "2", "-m", "idpersona.training"],
    "alone": [sys.executable, "-m", "idpersona.training", "--processes", "2"],
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_two_processes_take_the_steps_of_one(launch, diffusion_objective, tmp_path, recipe_writer):
    loop = {"steps": STEPS}
    path = recipe_writer(tmp_path, "mini", diffusion_objective, samples=SAMPLES, loop=loop)
    run_recipe(path, output=tmp_path / "one")
    command = [*LAUNCHES[launch], str(path), "--output", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-12000:]
    assert done.stderr.count(f"step {STEPS}/{STEPS}") == 1, "only the main process reports"
    assert done.stderr.count("samples of step 2") == 1, "and draws"
    scores = [(tmp_path / name / "samples" / "scores.csv").read_text().count("\n") for name in ("one", "two")]
    assert scores == [5, 5]
    assert (tmp_path / "two" / "base" / "model_index.json").is_file()
    weights, moments = [], []
    for name in ("one", "two"):
        checkpoint = tmp_path / name / "checkpoints" / f"step-{STEPS}"
        weights.append(load_file(checkpoint / "weights.safetensors"))
        state = torch.load(checkpoint / "optimiser.pt", weights_only=True)[0]["state"]
        moments.append(torch.cat([state[n]["exp_avg"].flatten() for n in sorted(state)]))
    resolved = Resolved.model_validate_json((tmp_path / "two" / "resolved.json").read_text())
    assert (resolved.processes, resolved.rows) == (2, 4)
    # The averages of the gradients agree to rounding, in steps whose gradients are clipped to length 1.
    assert moments[0].norm() > 0.05
    assert (moments[0] - moments[1]).abs().max() < 1e-6
    # Adam makes full steps of gradients that are nothing but rounding (a bias before a normalisation), so
    # single weights may differ; hardly any do.
    one, two = weights
    assert one.keys() == two.keys()
    apart = torch.cat([(value.float() - two[name].float()).abs().flatten() for name, value in one.items()])
    assert (apart > 1e-4).float().mean() < 1e-3
    assert apart.max() > 0, "two processes add up in another order"
