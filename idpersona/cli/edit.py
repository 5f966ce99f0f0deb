"""``idpersona edit``: a real photo, what it shows and what it shall show -> the edited photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = (
    "Example: idpersona edit sample:astronaut --prompt 'a photo of a woman with eyeglasses' "
    "--source 'a photo of a woman' -o glasses.png"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("edit", epilog=EPILOG)(edit)


def edit(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="The photo, or sample:NAME.")],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the picture shall show.")],
    source: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the photo shows [default on mini: what a classifier sees]."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.png", help="[default: PHOTO-edited.png beside it]"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Inversion: direct, null-text, negative-prompt, proximal, edict, renoise, ddim, ledits "
            "[default: direct].",
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD…", help="Change the photo only where these words of the prompts are."),
    ] = None,
    emphasis: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=FACTOR…", help="Strengthen or weaken words of --prompt, as smiling=2."),
    ] = None,
    keep_background: Annotated[
        bool, typer.Option("--keep-background", help="Change the head only, the rest stays pixel for pixel.")
    ] = False,
    kind: Annotated[
        str, typer.Option(metavar="refine|replace", help="Words come and go, or go one for one.")
    ] = "refine",
    cross_steps: Annotated[
        float | None,
        typer.Option(metavar="F", help="Part of the steps that keep where words are in the photo, 0 to 1."),
    ] = None,
    self_steps: Annotated[
        float | None, typer.Option(metavar="F", help="Part of the steps that keep its layout, 0 to 1.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="S", help="Part of the steps, up to the last, that may depart from the photo."),
    ] = None,
    detail: Annotated[
        bool,
        typer.Option(
            "--detail/--no-detail",
            help="Give back what the autoencoder lost of the photo, where the edit changes nothing.",
        ),
    ] = True,
    negative: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What it shall not show [default: what the photo shows]."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Who the edit shall be [default with --adapter: who is in PHOTO]."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:SCALE]", help="Adapters that keep the identity, as instantid or wplus."),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Adapter strength, 0 to 2 [default: 0.5].")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[OF.]NAME=VALUE",
            help="Options of an adapter or of the inversion, as null-text.inner=2.",
        ),
    ] = None,
    inversion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Inversion of this photo that was saved before.")
    ] = None,
    save_inversion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save it, to edit the photo again without inverting.")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Draw a sheet of strengths too, OUT-grid.png.")
    ] = False,
    base: Annotated[str, typer.Option(metavar="NAME|DIR|HUB_ID", help="Diffusion model.")] = "mini",
    steps: Annotated[
        int | None, typer.Option(help="Steps, 1 to 1000 [default: the base's for edits, or 50].")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale, 0 to 50 [default: the base's for edits].")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the picture [default: the base's].")
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="face|middle",
            help="What of the photo: its face as mini knows faces, or its middle [default: face on mini].",
        ),
    ] = None,
    face: Annotated[
        int | None, typer.Option(metavar="N", help="Which face in the photo, 0 the largest.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps [default: the best here].")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16", help="[default: fp32 on the CPU, else fp16]")
    ] = None,
    require_consent: Annotated[
        bool, typer.Option("--require-consent", help="Refuse people without the consent flag.")
    ] = False,
    consent: Annotated[
        bool, typer.Option("--consent", help="The person in the photo agreed to this use.")
    ] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Refuse non-commercial weights.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print files and settings as JSON.")] = False,
) -> None:
    """Change one thing in a real photo by words, and keep the rest.

    The photo is inverted into the noise from which the base draws it, and drawn again with --prompt instead
    of --source. Of a photo of another shape the middle is taken, on mini the face as it was trained on.
    """
    from idpersona.cli import arguments
    from idpersona.cli.edit_files import EditFiles
    from idpersona.cli.output import Printed, result, spinner
    from idpersona.jobs import limits
    from idpersona.jobs.edit_prepare import prepare
    from idpersona.jobs.edit_request import EditRequest
    from idpersona.jobs.sources import FileSources
    from idpersona.options import parse_options

    request = EditRequest(
        photo=photo,
        prompt=prompt,
        source=source,
        method=method,
        words=tuple(words or ()),
        emphasis=dict(arguments.factor(text, "--emphasis") for text in emphasis or ()),
        keep_background=keep_background,
        kind=kind,
        cross_steps=cross_steps,
        self_steps=self_steps,
        strength=strength,
        detail=detail,
        negative=negative,
        identity=identity,
        adapters=tuple(arguments.scaled(text, "--adapter") for text in adapter or ()),
        scale=scale,
        options=parse_options(settings or ()),
        inversion=inversion,
        grid=grid,
        base=base,
        steps=steps,
        guidance=guidance,
        size=limits.size(size) if size is not None else None,
        crop=crop,
        face=face,
        device=device,
        dtype=dtype,
        consent=consent,
    ).checked()
    files = EditFiles.of(request, output, save_inversion, force=force)
    listener = Printed()
    with spinner("reading the photo"):
        job = prepare(
            request,
            FileSources(files.target),
            listener,
            commercial=commercial,
            require_consent=require_consent,
        )

    from idpersona.jobs.edit_draw import draw_edit
    from idpersona.jobs.models import Models

    written = files.write(draw_edit(job, Models(), listener))
    lines = [f"wrote {path}" for path in written]
    result([{"file": str(path), **about} for path, about in written.items()], lines, as_json=as_json)
