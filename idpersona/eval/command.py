"""What the commands of ``idpersona eval`` share: their options, and what is made of them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from idpersona.eval.generation import Studio
    from idpersona.eval.protocol import Protocol
    from idpersona.eval.report import Report


class FaceFinder(StrEnum):
    """Detectors by name; their meaning is in ``idpersona.eval.finders``."""

    dlib = "dlib"
    yunet = "yunet"


Base = Annotated[str, typer.Option(help="Base: mini, sd15, sdxl, a folder or a hub id.")]
Adapter = Annotated[
    str, typer.Option(help="Adapter: a registry name, a folder or a hub id; none for no adapter.")
]
ProtocolFile = Annotated[str, typer.Option("--protocol", help="Protocol: a shipped name or a JSON file.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="A few people and steps, for a look; supports no claim.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the results [default: reports/NAME].")
]
Cache = Annotated[
    Path, typer.Option(help="Folder of finished pictures, from which an interrupted run goes on.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite results that lie there already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON instead of the table.")]
People = Annotated[int | None, typer.Option(min=2, help="Number of people instead of the protocol's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps instead of the protocol's.")]
Guidance = Annotated[float | None, typer.Option(min=0, help="Guidance instead of the protocol's.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")]
Device = Annotated[str | None, typer.Option(help="Device of the base and the adapter, e.g. cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Options of the adapter, as net_end=0.5."),
]
Judges = Annotated[
    list[str] | None, typer.Option("--judge", help="Judge; may be repeated [default: mini-judge].")
]
Scale = Annotated[float, typer.Option(min=0, max=5, help="Adapter scale.")]


def make_plan(name: str, quick: bool, **changes: Any) -> Protocol:
    """The protocol ``name``, with ``changes`` that are not None. Raises BadInput naming a wrong field."""
    from idpersona.eval.protocol import Protocol

    plan = Protocol.load(name)
    plan = plan.quick() if quick else plan
    return plan.changed(**{key: value for key, value in changes.items() if value is not None})


def parse_numbers(text: str | None) -> tuple[float, ...] | None:
    """``0,0.5,1`` as numbers; None stays None. Raises BadInput for anything else."""
    from idpersona.errors import BadInput

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"--scales takes numbers separated by commas, got '{text}'") from error


def output_folder(output: Path | None, kind: str, quick: bool, force: bool) -> Path:
    """Where results go; OutputError when it cannot be written, or holds results already and not ``force``."""
    from idpersona.eval.report import check_writable, report_paths
    from idpersona.images import check_output

    folder = output or Path("reports") / (f"{kind}-quick" if quick else kind)
    check_writable(folder)
    for path in report_paths(folder, kind) if folder.is_dir() else ():
        check_output(path, force=force)
    return folder


def set_threads(threads: int | None) -> None:
    """CPU threads of torch; None leaves them."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def make_studio(
    base: str,
    adapter: str,
    plan: Protocol,
    batch: int,
    cache: Path,
    device: str | None,
    threads: int | None,
    options: dict[str, Any],
) -> Studio:
    """Base and adapter (``none`` for none), loaded, under the settings of ``plan``."""
    from idpersona.adapters import load_adapter
    from idpersona.eval.generation import Studio
    from idpersona.pipelines import load_base

    set_threads(threads)
    pipe = load_base(base, device=device)
    method = None if adapter == "none" else load_adapter(adapter, base=pipe, device=device)
    return Studio(
        pipe,
        method,
        steps=plan.steps,
        guidance=plan.guidance,
        size=plan.size,
        negative_prompt=plan.negative_prompt,
        batch=batch,
        cache=cache,
        options=options,
    )


def adapter_options(adapter: str, settings: list[str] | None) -> dict[str, Any]:
    """Options of ``--set``; BadInput where the adapter would refuse them."""
    from idpersona.adapters import check_options
    from idpersona.errors import BadInput
    from idpersona.options import parse_options

    found = parse_options(settings or ())
    if found and adapter == "none":
        raise BadInput(f"--set {found[0].name}: there is no adapter that could take it")
    if any(option.adapter for option in found):
        raise BadInput("--set: one adapter is measured, so give NAME=VALUE without an adapter's name")
    options = {option.name: option.value for option in found}
    if options:
        check_options(adapter, options)
    return options


def describe(
    base: str, adapter: str, batch: int, device: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """What a report says of how it was made."""
    names = {"base": base, "adapter": adapter, "batch": batch, "device": device or "cpu"}
    return {**names, "adapter_options": options}


def finish(report: Report, folder: Path, force: bool, as_json: bool) -> None:
    """Write the report and print it."""
    paths = report.write(folder, force=force)
    typer.echo(json.dumps(report.as_dict(), indent=1) if as_json else report.text())
    typer.echo(f"wrote {', '.join(map(str, paths))}", err=True)
