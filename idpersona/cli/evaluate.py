"""``idpersona eval``: the evaluations of :mod:`idpersona.eval`, under the one command."""

from __future__ import annotations

import typer

from idpersona.eval.cli import app as evaluations


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.add_typer(
        evaluations, name="eval", epilog="Example: idpersona eval identity --judge mini-judge --json"
    )
