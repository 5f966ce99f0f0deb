"""``idpersona train``: run a training recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: idpersona train my-recipe.yaml --output runs/mine --resume"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("train", epilog=EPILOG)(train)


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE.yaml", help="A YAML file, or the name of a built-in recipe.")
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where checkpoints go [default: the recipe's].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after so long, with a checkpoint; 0 with --resume only exports."),
    ] = None,
    only_plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Train nothing: list what would be trained, and the memory that it takes."
        ),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="GPUs of the plan.")] = 1,
) -> None:
    """Train what a recipe says. On several devices: accelerate launch -m idpersona.training RECIPE.yaml."""
    from idpersona.silence import quiet_libraries

    quiet_libraries()
    if only_plan:
        from idpersona.training.plan import plan
        from idpersona.training.run import find_recipe

        print("\n".join(plan(find_recipe(recipe), processes).lines()))
        return
    from idpersona.training.run import run_recipe

    print(run_recipe(recipe, output=output, resume=resume, minutes=minutes))
