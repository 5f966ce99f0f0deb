"""``idpersona eval inversion`` and ``eval editing``: real photos, brought back and edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from idpersona.eval.command import (
    AsJson,
    Base,
    Cache,
    Device,
    Force,
    Judges,
    Output,
    ProtocolFile,
    Quick,
    Threads,
    finish,
    make_plan,
    output_folder,
    set_threads,
)
from idpersona.silence import quiet_libraries

Photos = Annotated[int | None, typer.Option(min=1, help="Number of photos [default: 24].")]
InversionSteps = Annotated[int | None, typer.Option(min=2, help="Steps.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Photos that go at once.")]
Dtype = Annotated[
    str | None, typer.Option(metavar="fp32|fp16|bf16", help="[default: fp32 on the CPU, else fp16]")
]
FaceCache = Annotated[
    Path, typer.Option("--cache", help="Folder of faces found in photos, which are not sought again.")
]
QUICK = {"photos": 2, "steps": 4}


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(inversion)
    app.command()(editing)


def inversion(
    base: Base = "mini",
    method: Annotated[
        list[str] | None, typer.Option(help="Inversion; may be repeated [default: all].")
    ] = None,
    photos: Photos = None,
    steps: InversionSteps = None,
    guidance: Annotated[float, typer.Option(min=1, help="Guidance of the way back.")] = 7.5,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: FaceCache = Path("reports/cache"),
    batch: AtOnce = 1,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """What comes back of real photos that are inverted and drawn again, by each inversion.

    Example: idpersona eval inversion --method direct --method null-text
    """
    quiet_libraries()
    from idpersona.eval.finders import get_finder
    from idpersona.eval.inversion import evaluate_inversion
    from idpersona.pipelines.inversion.methods import METHODS, get_method
    from idpersona.training.data.archives import PhotoStore

    plan, names = make_plan(protocol, quick), method or list(METHODS)
    for name in names:
        get_method(name)
    folder = output_folder(output, "inversion", quick, force)
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    pipe, used = _loaded(base, device, dtype, threads)
    report = evaluate_inversion(
        pipe,
        plan,
        names,
        **tools,
        photos=photos or (QUICK["photos"] if quick else 24),
        steps=steps or (QUICK["steps"] if quick else 50),
        guidance=guidance,
        batch=batch,
        cache=cache,
        settings=used,
    )
    finish(report, folder, force, as_json)


def editing(
    base: Base = "mini",
    method: Annotated[
        list[str] | None, typer.Option(help="Inversion; may be repeated [default: all].")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Adapter beside the defaults of edit; may be repeated [default: none]."),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="Attribute that is turned round [default: smile, glasses, hat, age, blond hair]."),
    ] = None,
    judge: Judges = None,
    photos: Photos = None,
    steps: InversionSteps = None,
    guidance: Annotated[float, typer.Option(min=1, help="Guidance.")] = 5.0,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the steps that may depart from the photo.")
    ] = 0.8,
    detail: Annotated[
        bool, typer.Option("--detail/--no-detail", help="Give back what the autoencoder lost.")
    ] = True,
    protocol: ProtocolFile = "standard",
    quick: Quick = False,
    output: Output = None,
    cache: Cache = Path("reports/cache"),
    batch: AtOnce = 8,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Attributes of real faces turned round by words: does it happen, and is it still that person.

    The row edit is what idpersona edit does where nothing is said; the others are guided as published.
    Finished edits are kept in the cache's folder edits; an interrupted run goes on from there.

    Example: idpersona eval editing --method direct --adapter instantid --judge mobilefacenet
    """
    quiet_libraries()
    from idpersona.encoders.attributes import get_classifier
    from idpersona.eval.edit_ways import Way
    from idpersona.eval.editing import ATTRIBUTES, evaluate_editing
    from idpersona.eval.finders import get_finder
    from idpersona.eval.judges import get_judge
    from idpersona.pipelines import Control
    from idpersona.pipelines.inversion.methods import METHODS, get_method
    from idpersona.training.data.archives import PhotoStore

    plan, names = make_plan(protocol, quick), list(METHODS) if method is None else method
    for name in names:
        get_method(name)
    how: dict[str, Any] = {"control": Control(strength=strength), "detail": detail}
    ways = [Way("edit", against_source=True, **how)]
    ways += [Way(f"edit, {name}", adapter=name, against_source=True, **how) for name in adapter or ()]
    ways += [Way(name, name, **how) for name in names]
    folder = output_folder(output, "editing", quick, force)
    judges = [get_judge(name) for name in judge or ["mini-judge"]]
    tools: dict[str, Any] = {"finder": get_finder("dlib"), "store": PhotoStore()}
    pipe, used = _loaded(base, device, dtype, threads)
    report = evaluate_editing(
        pipe,
        plan,
        ways,
        judges=judges,
        classifier=get_classifier("attr-judge"),
        **tools,
        photos=photos or (QUICK["photos"] if quick else 24),
        attributes=attribute or ATTRIBUTES,
        steps=steps or (QUICK["steps"] if quick else 25),
        guidance=guidance,
        batch=batch,
        cache=cache,
        pictures=cache / "edits",
        settings=used,
    )
    finish(report, folder, force, as_json)


def _loaded(
    base: str, device: str | None, dtype: str | None, threads: int | None
) -> tuple[Any, dict[str, Any]]:
    """The base without its progress bars, and what a report says of it."""
    from idpersona.pipelines import load_base

    set_threads(threads)
    pipe: Any = load_base(base, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe, {"base": base, "device": device or "cpu", "dtype": dtype, "threads": threads}
