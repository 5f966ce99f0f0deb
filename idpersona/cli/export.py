"""``idpersona export``: a trained adapter -> the layout that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: idpersona export runs/mine/instantid -o InstantID --dtype fp16"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("export", epilog=EPILOG)(export)


def export(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER", help="A folder of training or of one of its checkpoints, or a name."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    base: Annotated[
        str, typer.Option(help="Base of an adapter that is given by name or in another published layout.")
    ] = "mini",
    dtype: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16 [default: as the weights are stored].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older export in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write an adapter in its published layout: InstantID, W+ adapter, IP-Adapter, FaceID.

    Sizes and layers stay those of the base that it was made for. LoRAs are in diffusers' layout already.
    """
    from idpersona.silence import quiet_libraries

    quiet_libraries()
    from idpersona.adapters.loading import load_as_stored
    from idpersona.adapters.saving import check_folder
    from idpersona.cli.output import note, result, spinner
    from idpersona.devices import as_dtype

    number = as_dtype(dtype)
    check_folder(output, force=force)
    with spinner("exporting"):
        loaded = load_as_stored(adapter, base)
        done = loaded.to(dtype=number).save_published(output, force=force)
    for text in done.notes:
        note(text)
    if done.fields:
        told = ", ".join(f"{name}={value!r}" for name, value in done.fields.items())
        note(f"the layout does not say {told}: load_adapter('{done.folder}', base, ...) takes them")
    files = sorted(
        path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()
    )
    described = {
        "folder": str(done.folder),
        "method": loaded.name,
        "files": files,
        "fields": done.fields,
        "notes": list(done.notes),
    }
    result(described, [f"wrote {done.folder}: {loaded.name}, {', '.join(files)}"], as_json=as_json)
