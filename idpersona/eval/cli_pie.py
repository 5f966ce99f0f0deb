"""``idpersona eval pie-bench``: the command line of :mod:`idpersona.eval.pie_bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from idpersona.eval.command import AsJson, Base, Device, Force, Output, Threads, finish, output_folder
from idpersona.silence import quiet_libraries


def pie_bench(
    folder: Annotated[
        Path, typer.Argument(help="Folder of PIE-Bench: mapping_file.json and annotation_images.")
    ],
    method: Annotated[str, typer.Option(help="Inversion, as direct, null-text or ddim.")] = "direct",
    base: Base = "sd15",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps up and down.")] = 50,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Guidance of the edit [default: 7.5, of ledits 5].")
    ] = None,
    types: Annotated[
        str | None, typer.Option(metavar="0,1,…", help="Types of edits, 0 to 9 [default: all].")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many edits, spread over the types.")
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Measure edits as drawn; published ones were saved as JPEG.")
    ] = False,
    output: Output = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16", help="[default: fp32 on the CPU, else fp16]")
    ] = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Edit PIE-Bench's photos by words: what stays, and whether the edit is what was asked for.

    Finished edits are kept in the output's folder pictures; an interrupted run goes on from there. Measures
    whose weights are not here are left out, and the report says how to get them.

    Example: idpersona eval pie-bench PIE-Bench_v1 --method direct --limit 50 --device cuda
    """
    quiet_libraries()
    from idpersona.eval.command import set_threads
    from idpersona.eval.edit_measures import EditMeasures
    from idpersona.eval.pie_bench import KIND, Editor, check_settings, evaluate_pie_bench
    from idpersona.eval.pie_folder import read_edits
    from idpersona.pipelines import load_base

    check_settings(method, guidance)
    results = output_folder(output, KIND, False, force)
    kinds = None if types is None else [part.strip() for part in types.split(",")]
    edits = read_edits(folder, types=kinds, limit=limit)
    set_threads(threads)
    pipe = load_base(base, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    measures = EditMeasures.load(pipe.device)
    editor = Editor(pipe, results / "pictures", method=method, steps=steps, guidance=guidance)
    names = {"folder": str(folder), "base": base, "types": kinds, "limit": limit, "device": device or "cpu"}
    report = evaluate_pie_bench(editor, edits, measures=measures, lossless=lossless, settings=names)
    finish(report, results, force, as_json)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("pie-bench")(pie_bench)
