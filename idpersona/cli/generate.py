"""``idpersona generate``: an identity and a prompt -> pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = (
    "Example: idpersona generate --identity me.safetensors --prompt 'a photo of a smiling man' -o out.png"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("generate", epilog=EPILOG)(generate)


def generate(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.png", help="Picture to write.")],
    identity: Annotated[
        str | None, typer.Option(metavar="FILE", help="Identity file (see idpersona identify).")
    ] = None,
    photo: Annotated[
        list[str] | None, typer.Option(metavar="PHOTO…", help="Photos of the person instead, or sample:NAME.")
    ] = None,
    face: Annotated[
        int | None, typer.Option(metavar="N", help="Which face in the photos, 0 the largest.")
    ] = None,
    person: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE@X,Y,W,H",
            help="Several people in one picture, each in a box or a mask: identity file or photo @ region.",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|HOW",
            help="Of an object, one for each photo: a picture, or for all alpha, face, segment, none.",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What the picture shows.")] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="What it shall not show.")] = None,
    weighted: Annotated[
        bool | None,
        typer.Option(
            "--weighted/--plain",
            help="Prompts of any length with weights, as (smiling)1.3 or hat--; needs compel.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:SCALE]", help="Identity adapters [default: instantid].")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="NAME|DIR|HUB_ID", help="Diffusion model [default: mini].")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:WEIGHT]", help="LoRA files for the base (safetensors).")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Adapter strength, 0 to 2 [default: 1].")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[ADAPTER.]NAME=VALUE",
            help="Adapters' own options, as net_end=0.5 of instantid.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, 1 to 1000 [default: the base's].")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale, 0 to 50 [default: the base's].")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Multiples of 8 [default: the base's].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="0 to 2^63-1 [default: random; it is recorded].")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEED:AMOUNT",
            help="A picture near that of --seed: other noise mixed in, 0 nothing of it, 1 all; again: near "
            "that one.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", metavar="N", help="Pictures: OUT-0.png, OUT-1.png, …")] = 1,
    pose: Annotated[
        str | None, typer.Option(metavar="PHOTO", help="Take the position of the face from this photo.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps [default: the best here].")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16", help="[default: fp32 on the CPU, else fp16]")
    ] = None,
    repeat: Annotated[
        Path | None,
        typer.Option("--from", metavar="PNG", help="Repeat this picture; other options change it."),
    ] = None,
    require_consent: Annotated[
        bool, typer.Option("--require-consent", help="Refuse identities without the consent flag.")
    ] = False,
    consent: Annotated[
        bool, typer.Option("--consent", help="The person in --photo agreed to this use.")
    ] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Refuse non-commercial weights.")] = False,
    safety_checker: Annotated[
        bool | None,
        typer.Option(
            "--safety-checker/--no-safety-checker", help="The base's own checker, where it has one."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing pictures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print files and settings as JSON.")] = False,
) -> None:
    """Generate pictures of the person that follow the prompt.

    Each PNG carries its settings and the words "AI generated", and --from repeats it exactly. Of the identity
    a picture holds where it came from and its sha256, not the identity itself: keep the identity file or
    photos.
    """
    from idpersona.cli import arguments
    from idpersona.cli.output import Printed, result, spinner
    from idpersona.jobs import limits
    from idpersona.jobs.request import Request, recorded_request
    from idpersona.jobs.sources import FileSources
    from idpersona.options import parse_options
    from idpersona.provenance import read_settings

    request = Request(
        identity=identity,
        photos=tuple(photo or ()),
        face=face,
        persons=tuple(person or ()),
        masks=tuple(mask or ()),
        consent=consent or None,
        prompt=prompt,
        negative=negative,
        weighted=weighted,
        adapters=tuple(arguments.scaled(text, "--adapter") for text in adapter or ()),
        base=base,
        loras=tuple(arguments.scaled(text, "--lora") for text in lora or ()),
        scale=scale,
        options=parse_options(settings or ()),
        steps=steps,
        guidance=guidance,
        size=limits.size(size) if size is not None else None,
        seed=seed,
        vary=tuple(map(arguments.variation, vary or ())),
        pose=pose,
        device=device,
        dtype=dtype,
        safety_checker=safety_checker,
    ).checked()
    limits.whole("-n", count, limits.COUNT)
    listener = Printed()
    if repeat is not None:
        request = request.over(
            recorded_request(read_settings(repeat), FileSources(repeat), request, listener)
        ).checked()
    request = request.complete()
    paths = output_paths(output, count, force=force)

    with spinner("reading who it is"):
        from idpersona.jobs.prepare import prepare

        job = prepare(
            request,
            count,
            FileSources(paths[0]),
            listener,
            commercial=commercial,
            require_consent=require_consent,
        )

    from idpersona.jobs.draw import draw
    from idpersona.jobs.models import Models
    from idpersona.provenance import write_pngs

    drawn = draw(job, Models(), listener)
    write_pngs(
        [(picture, path, settings) for path, (picture, settings) in zip(paths, drawn, strict=True)],
        force=force,
    )
    lines = [f"wrote {path}" for path in paths]
    written = [{"file": str(path), **settings} for path, (_, settings) in zip(paths, drawn, strict=True)]
    result(written, lines, as_json=as_json)


def output_paths(output: Path, count: int, *, force: bool) -> list[Path]:
    """``OUT.png``, or ``OUT-0.png`` … for several; all checked before any work.

    Raises:
        OutputError: one of them cannot be written, or the name does not end in .png.
    """
    from idpersona.errors import OutputError
    from idpersona.images import check_output

    if output.suffix.lower() != ".png":
        raise OutputError(f"pictures are written as PNG: give a name that ends in .png, not {output.name!r}")
    names = [output] if count == 1 else [output.with_stem(f"{output.stem}-{i}") for i in range(count)]
    return [check_output(name, force=force) for name in names]
