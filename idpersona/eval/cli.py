"""``idpersona eval …``: the command line of the evaluations; the work is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from idpersona.eval import cli_edits, cli_pie
from idpersona.eval.command import (
    Adapter,
    AsJson,
    Base,
    Batch,
    Cache,
    Device,
    FaceFinder,
    Force,
    Guidance,
    Judges,
    Output,
    People,
    ProtocolFile,
    Quick,
    Scale,
    Settings,
    Steps,
    Threads,
    adapter_options,
    describe,
    finish,
    make_plan,
    make_studio,
    output_folder,
    parse_numbers,
    set_threads,
)
from idpersona.silence import quiet_libraries

app = typer.Typer(
    name="eval",
    help="Measure likeness, prompts, pose, sliders, inversions and edits; writes JSON, a table and a sheet.",
    add_completion=False,
    rich_markup_mode=None,
)


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

    plan = make_plan(
        protocol, quick, people=people, steps=steps, guidance=guidance, scales=parse_numbers(scales)
    )
    folder, options = output_folder(output, "identity", quick, force), adapter_options(adapter, settings)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder(finder.value), "store": PhotoStore()}
    studio = make_studio(base, adapter, plan, batch, cache, device, threads, options)
    report = evaluate_identity(
        studio,
        plan,
        judges=judges,
        **tools,
        cache=cache,
        settings=describe(base, adapter, batch, device, options),
    )
    finish(report, folder, force, as_json)


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
    from idpersona.encoders.attributes import get_classifier
    from idpersona.eval.finders import get_finder
    from idpersona.eval.prompt import evaluate_prompt
    from idpersona.training.data.archives import PhotoStore

    plan = make_plan(protocol, quick, people=people, steps=steps, guidance=guidance)
    folder, options = output_folder(output, "prompt", quick, force), adapter_options(adapter, settings)
    judge, store, finder = get_classifier(classifier), PhotoStore(), get_finder("dlib")
    studio = make_studio(base, adapter, plan, batch, cache, device, threads, options)
    names = describe(base, adapter, batch, device, options)
    report = evaluate_prompt(
        studio, plan, classifier=judge, finder=finder, store=store, scale=scale, cache=cache, settings=names
    )
    finish(report, folder, force, as_json)


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

    plan = make_plan(protocol, quick, steps=steps, guidance=guidance)
    folder, options = output_folder(output, "pose", quick, force), adapter_options(adapter, settings)
    tools: dict[str, Any] = {
        "finder": get_finder(finder.value),
        "reader": get_finder("dlib"),
        "store": PhotoStore(),
    }
    studio = make_studio(base, adapter, plan, batch, cache, device, threads, options)
    names = describe(base, adapter, batch, device, options)
    finish(
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
    from idpersona.eval.judges import get_judge
    from idpersona.eval.pairs import evaluate_pairs
    from idpersona.training.data.archives import PhotoStore

    plan = make_plan(protocol, quick, steps=steps, guidance=guidance)
    folder, options = output_folder(output, "pairs", quick, force), adapter_options(adapter, settings)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    alone = make_studio(base, adapter, plan, batch, cache, device, threads, options)
    report = evaluate_pairs(
        alone.sized(2 * plan.size, plan.size),
        alone,
        plan,
        judges=judges,
        **tools,
        pairs=plan.people // 2 if quick and count is None else count or 50,
        scale=scale,
        cache=cache,
        settings=describe(base, adapter, batch, device, options),
    )
    finish(report, folder, force, as_json)


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
    from idpersona.encoders.attributes import get_classifier
    from idpersona.eval.finders import get_finder
    from idpersona.eval.judges import get_judge
    from idpersona.eval.sliders import evaluate_sliders
    from idpersona.training.data.archives import PhotoStore

    plan = make_plan(
        protocol, quick, people=people or (None if quick else 32), steps=steps, guidance=guidance
    )
    folder, options = output_folder(output, "sliders", quick, force), adapter_options(adapter, settings)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    report = evaluate_sliders(
        make_studio(base, adapter, plan, batch, cache, device, threads, options),
        plan,
        directions=direction or ["smile", "eyeglasses", "age", "gender"],
        judges=judges,
        classifier=get_classifier(classifier),
        **tools,
        amount=amount,
        scale=scale,
        cache=cache,
        settings=describe(base, adapter, batch, device, options),
    )
    finish(report, folder, force, as_json)


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

    plan = make_plan(protocol, quick)
    folder = output_folder(output, "reconstruction", quick, force)
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    set_threads(threads)
    report = evaluate_reconstruction(
        load_base(base, device=device), plan, **tools, cache=cache, settings={"base": base}
    )
    finish(report, folder, force, as_json)


cli_edits.register(app)
cli_pie.register(app)
