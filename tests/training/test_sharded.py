"""FSDP 2 and DeepSpeed through accelerate take the steps that one process takes, and resume where they were.

accelerate shards on accelerators only. Here it is told that it may do so on a CPU, as torch can; DeepSpeed
runs there by itself, with one process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
from test_loop import recipe
from idpersona.errors import IdPersonaError
from idpersona.training import loop
from idpersona.training.parts import TrainedParameters

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
        self.outer = nn.Linear(4, 1)
    def forward(self, x):
        return self.outer(self.inner(x))

class Parts(loop.Objective):
    writes_only = "refused" not in sys.argv
    def __init__(self):
        torch.manual_seed(0)
        self.net, self.bare = Net(), nn.Linear(4, 1)
        if "frozen" in sys.argv:  # as a LoRA in a large network
            self.net.inner.requires_grad_(False)
            self.trained = TrainedParameters(nn.ModuleDict({"net": self.net, "bare": self.bare}))
        else:
            self.trained = nn.ModuleDict({"net": self.net, "bare": self.bare})
    def loss(self, key):
        if key.step == 11 and "half" in sys.argv:
            raise RuntimeError("ended in the middle")
        x = key.normal((4,), stream=0)
        # One part is called, of the other one the weights are read.
        guess = self.net(x) + x @ self.bare.weight.T + self.bare.bias
        return (guess - x.sum(1, keepdim=True)).square().mean(), {}
    def save(self, folder):
        self.write(folder / "usable.pt")
    def export(self, folder):
        self.write(folder / "exported.pt")
    def write(self, path):
        torch.save({n: v.clone() for n, v in self.trained.state_dict().items()}, path)

def shard(accelerator_of):
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    def sharding(*arguments):
        made = accelerator_of(*arguments)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["Sequential"], cpu_ram_efficient_loading=True)
        AcceleratorState._shared_state["fsdp_plugin"] = plugin
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        return made
    return sharding

if "fsdp" in sys.argv:
    loop.start_accelerator = shard(loop.start_accelerator)
made = recipe(Path(sys.argv[2]), steps=20, save_every=6, accumulate=2)
changed = {w.split("=")[0]: eval(w.split("=")[1]) for w in sys.argv if w.startswith("optimiser.")}
if changed:
    made = made.model_copy(update={"optimiser": made.optimiser.model_copy(
        update={n.split(".")[1]: v for n, v in changed.items()})})
try:
    loop.train(made, Parts(), resume="resume" in sys.argv)
except IdPersonaError as error:
    sys.exit(str(error))
"""
ALONE = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29533",
}


def run(folder: Path, *words: str, processes: int = 1, fails: str = "", **environment: str) -> None:
    script = folder.parent / "train.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launch if processes > 1 else []), str(script), str(Path(__file__).parent)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | environment
    done = subprocess.run(
        [*command, str(folder), *words],
        env=settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode != 0) == bool(fails), done.stderr[-4000:]
    assert fails in done.stderr


def state(folder: Path) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / "step-20"
    kept: dict[str, torch.Tensor] = {}
    for name in ("weights", "ema"):
        kept |= {f"{name}.{n}": v for n, v in load_file(last / f"{name}.safetensors").items()}
    kept |= {f"usable.{n}": v for n, v in torch.load(last / "usable.pt").items()}
    return kept | {f"exported.{n}": v for n, v in torch.load(folder / "exported.pt").items()}


def near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value - other[name]).abs().max() <= within, name


def test_sharded_processes_take_the_steps_of_one_and_resume(tmp_path: Path) -> None:
    run(tmp_path / "one")
    run(tmp_path / "two", "fsdp", processes=2)
    wanted = state(tmp_path / "one")
    near(wanted, state(tmp_path / "two"), 1e-5)
    run(tmp_path / "parts", "fsdp", "half", processes=2, fails="in the middle")
    shutil.copytree(tmp_path / "parts", tmp_path / "fewer")
    run(tmp_path / "parts", "fsdp", "resume", processes=2)
    near(state(tmp_path / "two"), state(tmp_path / "parts"), 0)
    # What was sharded goes on in one process.
    run(tmp_path / "fewer", "resume")
    near(wanted, state(tmp_path / "fewer"), 1e-5)


def test_a_large_frozen_network_is_sharded_around_what_is_trained(tmp_path: Path) -> None:
    run(tmp_path / "one", "frozen")
    run(tmp_path / "two", "frozen", "fsdp", processes=2)
    wanted = state(tmp_path / "one")
    near(wanted, state(tmp_path / "two"), 1e-5)
    assert not any("inner" in name for name in wanted)


@pytest.mark.parametrize(
    ("words", "fails"),
    [
        (("refused",), "runs them when it exports"),
        (("optimiser.muon=('net',)",), "which FSDP and DeepSpeed cut"),
        (("optimiser.eight_bit=True",), "optimiser.eight_bit"),
    ],
)
def test_what_cannot_be_sharded_is_refused(words: tuple[str, ...], fails: str, tmp_path: Path) -> None:
    if "eight_bit" in fails and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    run(tmp_path / "two", "fsdp", *words, processes=2, fails=fails)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", ["0", "2"])
def test_deepspeed_takes_the_same_steps_and_resumes(stage: str, tmp_path: Path) -> None:
    settings = ALONE | {
        "ACCELERATE_USE_CPU": "false",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage,
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2",
        "DS_ACCELERATOR": "cpu",
    }
    run(tmp_path / "one")
    run(tmp_path / "deep", **settings)
    wanted = state(tmp_path / "one")
    near(wanted, state(tmp_path / "deep"), 1e-5)
    run(tmp_path / "parts", "half", fails="in the middle", **settings)
    run(tmp_path / "parts", "resume", **settings)
    near(state(tmp_path / "deep"), state(tmp_path / "parts"), 0)
    run(tmp_path / "parts", "resume", fails="made with DeepSpeed")


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeeds_third_stage_is_refused(tmp_path: Path) -> None:
    settings = ALONE | {
        "ACCELERATE_USE_CPU": "false",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "DS_ACCELERATOR": "cpu",
    }
    run(tmp_path / "deep", fails="ZeRO 3 is not supported", **settings)
