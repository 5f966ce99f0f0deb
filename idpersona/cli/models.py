"""``idpersona models``: the registry of weights on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from idpersona.registry import Weight

models = typer.Typer(
    help="Weights: source, size, sha256, licence, where they lie.",
    add_completion=False,
    rich_markup_mode=None,
)
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One set of weights [default: all].")]
Commercial = Annotated[bool, typer.Option("--commercial", help="Refuse non-commercial weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.add_typer(models, name="models", epilog="Example: idpersona models pull sdxl")


def describe(weight: Weight) -> dict[str, Any]:
    """One entry as JSON values, with the folder it lies in or None."""
    from idpersona.registry import installed

    folder = installed(weight.name)
    return {
        "name": weight.name,
        "kind": weight.kind,
        "embedded": weight.embedded,
        "source": f"{weight.place}: {weight.source}",
        "size": weight.size,
        "licence": weight.licence,
        "commercial": weight.commercial,
        "preprocessing": weight.preprocessing,
        "needs": list(weight.needs),
        "note": weight.note,
        "location": str(folder) if folder else None,
        "files": {path: {"sha256": sha, "size": size} for path, (sha, size) in weight.files.items()},
    }


@models.command("list", epilog="Example: idpersona models list --commercial --json")
def list_models(name: Name = None, commercial: Commercial = False, as_json: Json = False) -> None:
    """List all weights, or everything about one."""
    from idpersona.cli.output import megabytes, result, table
    from idpersona.registry import WEIGHTS, get_weight, require_commercial

    if name is not None:
        if commercial:
            require_commercial([name])
        entry = describe(get_weight(name))
        unpinned = "checked against the hub" if get_weight(name).place == "hub" else "no hash is known"
        files = [
            f"  {path}  {megabytes(pin['size'])}  {pin['sha256'] or unpinned}"
            for path, pin in entry["files"].items()
        ]
        facts = [
            f"{key}: {value}" for key, value in entry.items() if key != "files" and value not in ("", [])
        ]
        result(entry, [*facts, "files:", *files], as_json=as_json)
        return
    chosen = [weight for weight in WEIGHTS.values() if weight.commercial or not commercial]
    entries = [describe(weight) for weight in chosen]
    rows = [
        [
            entry["name"],
            entry["kind"],
            megabytes(entry["size"]),
            "yes" if entry["commercial"] else "no",
            "here" if entry["location"] else "missing",
            entry["source"],
        ]
        for entry in entries
    ]
    head = ["name", "kind", "size", "commercial", "state", "source"]
    result(entries, table(head, rows), as_json=as_json)


@models.command("pull", epilog="Example: idpersona models pull instantid")
def pull_model(name: Name = None, commercial: Commercial = False, as_json: Json = False) -> None:
    """Fetch weights from the hub and verify them. A broken download goes on where it stopped."""
    from idpersona.cli.output import note, result
    from idpersona.errors import BadInput
    from idpersona.registry import WEIGHTS, get_weight, pull, require_commercial

    if name is None:
        offered = ", ".join(weight.name for weight in WEIGHTS.values() if weight.place == "hub")
        raise BadInput(f"name the weights to pull: {offered}")
    weight = get_weight(name)
    if commercial:
        require_commercial([name])
    folder = pull(name)
    if not weight.commercial:
        note(f"'{name}': {weight.licence}")
    result(
        {"name": name, "location": str(folder), "verified": True},
        [f"{name}: {folder}, verified"],
        as_json=as_json,
    )


@models.command("verify", epilog="Example: idpersona models verify mini")
def verify_model(name: Name = None, commercial: Commercial = False, as_json: Json = False) -> None:
    """Compare files with their sha256: one set of weights, or all that are here; 1 when one differs."""
    from dataclasses import asdict

    from idpersona.cli.output import note, result
    from idpersona.errors import MissingWeights
    from idpersona.registry import get_weight, installed, require_commercial, verify, weight_names

    names = [get_weight(name).name] if name else [name for name in weight_names() if installed(name)]
    if commercial:
        require_commercial(names)
    report, lines, broken = {}, [], False
    unverified: list[str] = []
    for each in names:
        try:
            checks = verify(each)
        except MissingWeights as error:
            unverified.append(str(error))
            continue
        report[each] = [asdict(check) for check in checks]
        broken |= not all(check.ok for check in checks)
        for check in checks:
            state = "ok" if check.ok else f"BROKEN: {check.reason}"
            lines.append(f"{each}/{check.path}: {state} ({check.against})")
    result(report, lines, as_json=as_json)
    if unverified and not broken:
        raise MissingWeights("; ".join(unverified))
    for reason in unverified:
        note(reason)
    if broken:
        raise typer.Exit(1)
