"""Several processes on a machine without accelerators.

``accelerate launch --cpu --num_processes 2`` starts a single process (several only through MPI), and says
nothing of the others. They are started here, by torch's own launcher.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from idpersona.errors import BadInput

RANKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables of which a launcher that started all processes has set one."""


def missing_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes ``accelerate launch`` was asked for and did not start, on a CPU; else 0.

    Raises:
        BadInput: more than one was asked for, and it cannot be told how many.
    """
    on_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    # accelerate sets the address only where it was asked for several.
    if not on_cpu or "MASTER_ADDR" not in environment or any(name in environment for name in RANKED):
        return 0
    asked = _asked_of_accelerate()
    if not asked:
        raise BadInput(
            "accelerate was asked for several processes and has started one: give --processes N instead"
        )
    return asked


def start_processes(count: int, words: Sequence[str]) -> NoReturn:
    """Become torch's launcher of ``count`` processes of this training; ``words`` are its arguments."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    command += ["-m", "idpersona.training", *words]
    os.environ.pop("MASTER_ADDR", None)
    os.environ.pop("MASTER_PORT", None)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _asked_of_accelerate() -> int:
    """``--num_processes`` of the launcher that is this process's parent; 0 where there is none."""
    import psutil
    from accelerate.commands.launch import launch_command_parser

    for parent in psutil.Process().parents():
        try:
            words = parent.cmdline()
        except psutil.Error:  # of another user, or gone
            continue
        if "launch" in words and any("accelerate" in word for word in words[: words.index("launch")]):
            given, _ = launch_command_parser().parse_known_args(words[words.index("launch") + 1 :])
            return int(given.num_processes or 0)
    return 0
