"""``accelerate launch -m idpersona.training RECIPE.yaml [--output DIR] [--resume] [--minutes M]``."""

from __future__ import annotations

import argparse
import os
import sys

from idpersona.silence import quiet_libraries
from idpersona.training.command import exit_status
from idpersona.training.launch import missing_processes, start_processes
from idpersona.training.run import run_recipe


def main() -> int:
    """Parse the arguments and train; 2 on bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(prog="idpersona.training", description="Train by a recipe.")
    parser.add_argument("recipe", help="YAML file, or the name of a built-in recipe")
    parser.add_argument("--output", help="folder for checkpoints and results (default: the recipe's)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in the output"
    )
    parser.add_argument("--minutes", type=float, help="stop after so long, with a checkpoint")
    parser.add_argument("--processes", type=int, default=0, help="so many processes on the CPU")
    arguments = parser.parse_args()
    quiet_libraries()
    status = exit_status(lambda: _start_others(arguments.processes))
    if status:
        return status
    return exit_status(
        lambda: print(
            run_recipe(
                arguments.recipe, output=arguments.output, resume=arguments.resume, minutes=arguments.minutes
            )
        )
    )


def _start_others(asked: int) -> None:
    """Become the launcher of several processes where this is to be one of them, and is alone."""
    count = asked if asked > 1 and "RANK" not in os.environ else missing_processes()
    if count > 1:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        start_processes(count, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
