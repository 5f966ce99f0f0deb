"""``idpersona doctor``: what is installed, what really runs, what is missing, and the fix for each."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example: idpersona doctor --json"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("doctor", epilog=EPILOG)(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Report versions, devices, providers and kernels really in use, missing weights, and the fixes."""
    from dataclasses import asdict

    from idpersona.cli.output import result
    from idpersona.examine import examine
    from idpersona.silence import quiet_libraries

    quiet_libraries()
    findings = examine()
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:7} {finding.area:9} {finding.what}: {finding.detail}")
        if finding.fix:
            lines.append(f"{'':17} fix: {finding.fix}")
    wanting = sum(finding.state == "broken" for finding in findings)
    lines.append("everything that idpersona needs works" if not wanting else f"{wanting} thing(s) to mend")
    result([asdict(finding) for finding in findings], lines, as_json=as_json)
    if wanting:
        raise typer.Exit(1)
