"""``idpersona eval …``: the command line of the evaluations; the work is in the modules beside this one."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idpersona.silence import quiet_libraries

if TYPE_CHECKING:
    from idpersona.eval.generation import Studio
    from idpersona.eval.protocol import Protocol
    from idpersona.eval.report import Report

app = typer.Typer(
    name="eval",
    help="Measure identity, prompt, pose, pairs, sliders, reconstruction; writes JSON, a table and a sheet.",
    add_completion=False,
    rich_markup_mode=None,
)


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


@app.command()
def identity(
    base: Base = "mini",
    adapter: Adapter = "instantid",
    judge: Judges = None,
    finder: Annotated[FaceFinder, typer.Option(help="Finds the face in every picture.")] = FaceFinder.dlib,
    scales: Annotated[
        str | None, typer.Option(help="Scales, separated by commas, instead of the protocol's.")
    ] = None,
    people: People = None,
    settings: Settings = None,
    steps: Steps = None,
    guidance: Guidance = None,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    batch: Batch = 16,
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Likeness on held-out people: own, others, rank-1, detection, with floor and ceiling.

    Example: idpersona eval identity --judge mini-judge --judge mobilefacenet
    """
    quiet_libraries()
    from idpersona.eval.finders import get_finder
    from idpersona.eval.identity import evaluate_identity
    from idpersona.eval.judges import get_judge
    from idpersona.training.data.archives import PhotoStore

    plan = _plan(protocol, quick, people=people, steps=steps, guidance=guidance, scales=_numbers(scales))
    folder, options = _folder(output, "identity", quick, force), _options(adapter, settings)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder(finder.value), "store": PhotoStore()}
    studio = _studio(base, adapter, plan, batch, cache, device, threads, options)
    report = evaluate_identity(
        studio,
        plan,
        judges=judges,
        **tools,
        cache=cache,
        settings=_names(base, adapter, batch, device, options),
    )
    _finish(report, folder, force, as_json)


@app.command()
def prompt(
    base: Base = "mini",
    adapter: Adapter = "instantid",
    classifier: Annotated[
        str, typer.Option(help="Attribute classifier: attr-judge, or labeler.")
    ] = "attr-judge",
    scale: Scale = 1.0,
    people: People = None,
    settings: Settings = None,
    steps: Steps = None,
    guidance: Guidance = None,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    batch: Batch = 16,
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Balanced hit rate per attribute, asked for against asked against, with and without identity.

    Example: idpersona eval prompt --adapter none
    """
    quiet_libraries()
    from idpersona.eval.attributes import get_classifier
    from idpersona.eval.finders import get_finder
    from idpersona.eval.prompt import evaluate_prompt
    from idpersona.training.data.archives import PhotoStore

    plan = _plan(protocol, quick, people=people, steps=steps, guidance=guidance)
    folder, options = _folder(output, "prompt", quick, force), _options(adapter, settings)
    judge, store, finder = get_classifier(classifier), PhotoStore(), get_finder("dlib")
    studio = _studio(base, adapter, plan, batch, cache, device, threads, options)
    names = _names(base, adapter, batch, device, options)
    report = evaluate_prompt(
        studio, plan, classifier=judge, finder=finder, store=store, scale=scale, cache=cache, settings=names
    )
    _finish(report, folder, force, as_json)


@app.command()
def pose(
    base: Base = "mini",
    adapter: Adapter = "instantid",
    finder: Annotated[
        FaceFinder, typer.Option(help="Finds the points in the pictures drawn.")
    ] = FaceFinder.yunet,
    scale: Scale = 1.0,
    settings: Settings = None,
    steps: Steps = None,
    guidance: Guidance = None,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    batch: Batch = 16,
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Whether faces stand where the keypoints asked for them, against shuffled keypoints.

    Example: idpersona eval pose --finder yunet
    """
    quiet_libraries()
    from idpersona.eval.finders import get_finder
    from idpersona.eval.pose import evaluate_pose
    from idpersona.training.data.archives import PhotoStore

    plan = _plan(protocol, quick, steps=steps, guidance=guidance)
    folder, options = _folder(output, "pose", quick, force), _options(adapter, settings)
    tools: dict[str, Any] = {
        "finder": get_finder(finder.value),
        "reader": get_finder("dlib"),
        "store": PhotoStore(),
    }
    studio = _studio(base, adapter, plan, batch, cache, device, threads, options)
    names = _names(base, adapter, batch, device, options)
    _finish(
        evaluate_pose(studio, plan, **tools, scale=scale, cache=cache, settings=names), folder, force, as_json
    )


@app.command()
def pairs(
    base: Base = "mini",
    adapter: Adapter = "instantid",
    judge: Judges = None,
    count: Annotated[
        int | None, typer.Option("--pairs", min=1, help="Pictures of two people [default: 50].")
    ] = None,
    scale: Scale = 1.0,
    settings: Settings = None,
    steps: Steps = None,
    guidance: Guidance = None,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    batch: Batch = 16,
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Two people side by side: is each face nearer to its own person than to the other.

    Example: idpersona eval pairs --judge mini-judge --judge mobilefacenet
    """
    quiet_libraries()
    from idpersona.eval.finders import get_finder
    from idpersona.eval.generation import Studio
    from idpersona.eval.judges import get_judge
    from idpersona.eval.pairs import evaluate_pairs
    from idpersona.training.data.archives import PhotoStore

    plan = _plan(protocol, quick, steps=steps, guidance=guidance)
    folder, options = _folder(output, "pairs", quick, force), _options(adapter, settings)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    alone = _studio(base, adapter, plan, batch, cache, device, threads, options)
    wide = Studio(
        alone.pipe,
        alone.adapter,
        steps=plan.steps,
        guidance=plan.guidance,
        size=(2 * plan.size, plan.size),
        negative_prompt=plan.negative_prompt,
        batch=batch,
        cache=cache,
        options=options,
    )
    report = evaluate_pairs(
        wide,
        alone,
        plan,
        judges=judges,
        **tools,
        pairs=plan.people // 2 if quick and count is None else count or 50,
        scale=scale,
        cache=cache,
        settings=_names(base, adapter, batch, device, options),
    )
    _finish(report, folder, force, as_json)


@app.command()
def sliders(
    base: Base = "mini",
    adapter: Adapter = "wplus",
    direction: Annotated[
        list[str] | None,
        typer.Option(help="Direction; may be repeated [default: smile, eyeglasses, age, gender]."),
    ] = None,
    amount: Annotated[float, typer.Option(min=0.01, help="The strongest amount, either way.")] = 2.0,
    judge: Judges = None,
    classifier: Annotated[
        str, typer.Option(help="Attribute classifier: attr-judge, or labeler.")
    ] = "attr-judge",
    scale: Scale = 1.0,
    people: Annotated[int | None, typer.Option(min=2, help="Number of people [default: 32].")] = None,
    settings: Settings = None,
    steps: Steps = None,
    guidance: Guidance = None,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    batch: Batch = 16,
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Whether editing directions move their attribute, and what they cost in likeness.

    Example: idpersona eval sliders --direction smile --amount 3
    """
    quiet_libraries()
    from idpersona.eval.attributes import get_classifier
    from idpersona.eval.finders import get_finder
    from idpersona.eval.judges import get_judge
    from idpersona.eval.sliders import evaluate_sliders
    from idpersona.training.data.archives import PhotoStore

    plan = _plan(protocol, quick, people=people or (None if quick else 32), steps=steps, guidance=guidance)
    folder, options = _folder(output, "sliders", quick, force), _options(adapter, settings)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    report = evaluate_sliders(
        _studio(base, adapter, plan, batch, cache, device, threads, options),
        plan,
        directions=direction or ["smile", "eyeglasses", "age", "gender"],
        judges=judges,
        classifier=get_classifier(classifier),
        **tools,
        amount=amount,
        scale=scale,
        cache=cache,
        settings=_names(base, adapter, batch, device, options),
    )
    _finish(report, folder, force, as_json)


@app.command()
def reconstruction(
    base: Base = "mini",
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """PSNR and SSIM of held-out photos through the base's autoencoder.

    Example: idpersona eval reconstruction --base mini
    """
    quiet_libraries()
    from idpersona.eval.finders import get_finder
    from idpersona.eval.reconstruction import evaluate_reconstruction
    from idpersona.pipelines import load_base
    from idpersona.training.data.archives import PhotoStore

    plan = _plan(protocol, quick)
    folder = _folder(output, "reconstruction", quick, force)
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    _set_threads(threads)
    report = evaluate_reconstruction(
        load_base(base, device=device), plan, **tools, cache=cache, settings={"base": base}
    )
    _finish(report, folder, force, as_json)


def _plan(name: str, quick: bool, **changes: Any) -> Protocol:
    from idpersona.eval.protocol import Protocol

    plan = Protocol.load(name)
    plan = plan.quick() if quick else plan
    return plan.changed(**{key: value for key, value in changes.items() if value is not None})


def _numbers(text: str | None) -> tuple[float, ...] | None:
    from idpersona.errors import BadInput

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"--scales takes numbers separated by commas, got '{text}'") from error


def _folder(output: Path | None, kind: str, quick: bool, force: bool) -> Path:
    from idpersona.eval.report import check_writable, report_paths
    from idpersona.images import check_output

    folder = output or Path("reports") / (f"{kind}-quick" if quick else kind)
    check_writable(folder)
    for path in report_paths(folder, kind) if folder.is_dir() else ():
        check_output(path, force=force)
    return folder


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _studio(
    base: str,
    adapter: str,
    plan: Protocol,
    batch: int,
    cache: Path,
    device: str | None,
    threads: int | None,
    options: dict[str, Any],
) -> Studio:
    from idpersona.adapters import load_adapter
    from idpersona.eval.generation import Studio
    from idpersona.pipelines import load_base

    _set_threads(threads)
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


def _options(adapter: str, settings: list[str] | None) -> dict[str, Any]:
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


def _names(
    base: str, adapter: str, batch: int, device: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    names = {"base": base, "adapter": adapter, "batch": batch, "device": device or "cpu"}
    return {**names, "adapter_options": options}


def _finish(report: Report, folder: Path, force: bool, as_json: bool) -> None:
    paths = report.write(folder, force=force)
    typer.echo(json.dumps(report.as_dict(), indent=1) if as_json else report.text())
    typer.echo(f"wrote {', '.join(map(str, paths))}", err=True)
