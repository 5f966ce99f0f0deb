"""``accelerate launch -m idpersona.training RECIPE.yaml [--output DIR] [--resume] [--minutes M]``.

Several processes without accelerators: ``ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m
idpersona.training RECIPE.yaml``; ``accelerate launch --cpu`` starts one process only, unless MPI starts more.
"""

from __future__ import annotations

import argparse
import sys

from idpersona.silence import quiet_libraries
from idpersona.training.command import exit_status
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
    arguments = parser.parse_args()
    quiet_libraries()
    return exit_status(
        lambda: print(
            run_recipe(
                arguments.recipe, output=arguments.output, resume=arguments.resume, minutes=arguments.minutes
            )
        )
    )


if __name__ == "__main__":
    sys.exit(main())
