"""Runs that are ended from outside, by a signal, a kill or a full disk, lose nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loop import Line, recipe
from idpersona.training.command import exit_status
from idpersona.training.loop import train

class Slow(Line):
    def loss(self, key):
        time.sleep(0.02)
        print(key.step, flush=True)
        if key.step == 12 and "full" in sys.argv:  # as a disk that takes no more than a little
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return super().loss(key)

made = recipe(Path(sys.argv[2]), save_every=3)
sys.exit(exit_status(lambda: print(train(made, Slow(), resume="resume" in sys.argv))))
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == str(step):
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / "step-30"
    found = load_file(last / "weights.safetensors") | {
        f"ema.{name}": value for name, value in load_file(last / "ema.safetensors").items()
    }
    state = torch.load(last / "optimiser.pt", weights_only=True)[0]["state"]
    return found | {f"{n}.{kind}": value for n, values in state.items() for kind, value in values.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return weights(folder)


def same(folder: Path, wanted: dict[str, torch.Tensor]) -> None:
    found = weights(folder)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_step_that_was_reached(
    number: signal.Signals, uninterrupted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    process = start(tmp_path)
    until(process, 10)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    reached = int(err.split("holds step ")[1].split()[0])
    assert 10 < reached < 30 and "--resume" in err.splitlines()[-1]
    assert str(reached) not in out.split(), "the step under way was the last one"
    again = start(tmp_path, "resume")
    assert again.communicate(timeout=120)[0].split()[0] == str(reached)
    same(tmp_path, uninterrupted)


def test_killed_anywhere_a_run_ends_where_it_would_have(
    uninterrupted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    rng = random.Random(0)
    for kill in range(4):
        process = start(tmp_path, *(["resume"] if kill else []))
        until(process, 3 + 6 * kill)
        time.sleep(rng.random() * 0.15)
        process.kill()
        process.communicate()
    again = start(tmp_path, "resume")
    assert again.wait(120) == 0
    same(tmp_path, uninterrupted)
    assert not list(tmp_path.rglob("*.partial")), "what a kill left is gone"


def test_a_full_disk_names_the_last_good_checkpoint(
    uninterrupted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    process = start(tmp_path, "full")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "step-12: make room" in err, err
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-12", "step-9"]
    assert start(tmp_path, "resume").wait(120) == 0
    same(tmp_path, uninterrupted)
