"""``idpersona dataset``: build, check and prepare datasets of faces for training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

dataset = typer.Typer(
    help="Datasets for training: from a heap of photos to faces with captions, people and pairs.",
    add_completion=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a dataset that is there; begin anew.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="DST", help="Folder of the dataset.")]
Place = Annotated[Path, typer.Argument(metavar="DST", help="Folder of the dataset.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.add_typer(dataset, name="dataset", epilog="Example: idpersona dataset build photos/ -o faces")


@dataset.command("build", epilog="Example: idpersona dataset build photos/ -o faces --workers 4")
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder of pictures or *.tar, *.parquet, or a dataset of the hub."
        ),
    ],
    output: Output,
    min_side: Annotated[int, typer.Option(metavar="PX", help="Shortest side in pixels.")] = 512,
    faces: Annotated[str, typer.Option(metavar="N-M", help="Faces in a photo.")] = "1-3",
    face_area: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the picture that the largest face covers, at least.")
    ] = 0.04,
    caption: Annotated[
        Literal["person", "any"], typer.Option(help="person: with a word for a person. any: also none.")
    ] = "person",
    consent: Annotated[
        bool, typer.Option("--consent", help="Everybody agreed, where a photo's metadata say nothing.")
    ] = False,
    require_consent: Annotated[
        bool, typer.Option("--require-consent", help="Reject photos without consent.")
    ] = False,
    licence: Annotated[str, typer.Option(help="Of photos whose metadata name none.")] = "",
    encoder: Annotated[str, typer.Option(metavar="NAME", help="Face encoder.")] = "dlib",
    same_person: Annotated[
        float | None,
        typer.Option(metavar="DISTANCE", help="Up to which photos are of one person [default: calibrated]."),
    ] = None,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Do not look for near-duplicates.")
    ] = False,
    pairs_per_photo: Annotated[int, typer.Option(metavar="N", help="References of a photo, at most.")] = 4,
    link: Annotated[
        bool, typer.Option("--link", help="Leave photos where they lie, and point there.")
    ] = False,
    kind: Annotated[
        Literal["auto", "folder", "webdataset", "datasets"], typer.Option("--format", help="How SRC is read.")
    ] = "auto",
    split: Annotated[str, typer.Option(metavar="NAME", help="Of a dataset.")] = "train",
    image_column: Annotated[str, typer.Option(metavar="NAME", help="Of a dataset [default: found].")] = "",
    caption_column: Annotated[
        str, typer.Option(metavar="NAME", help="Of the captions [default: caption, text, prompt …].")
    ] = "",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes.")] = 1,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Read part I of N only; idpersona dataset merge joins them.")
    ] = "1/1",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Build a dataset of faces. Ended or killed, the same command goes on where it was."""
    if encoder != "dlib":  # dlib has no use for the libraries, which take seconds to import
        from idpersona.silence import quiet_libraries

        quiet_libraries()
    from idpersona.cli.output import result
    from idpersona.training.data.builder.build import build as run
    from idpersona.training.data.builder.settings import BuildSettings, parse_faces, parse_shard

    settings = BuildSettings(
        source=source,
        kind=kind,
        split=split,
        image_column=image_column,
        caption_column=caption_column,
        min_side=min_side,
        faces=parse_faces(faces),
        face_area=face_area,
        caption=caption,
        consent=consent,
        licence=licence,
        require_consent=require_consent,
        encoder=encoder,
        link=link,
        same_person=same_person,
        keep_duplicates=keep_duplicates,
        pairs_per_photo=pairs_per_photo,
    )
    part = parse_shard(shard)
    with ExitStack() as stack:
        progress = _reading(stack)
        about = run(settings, output, workers=workers, shard=part, force=force, progress=progress)
    if part != (1, 1):
        line = f"{output}: part {part[0]} of {part[1]}; join all with idpersona dataset merge PART… -o DST"
        result({"part": str(output), "shard": list(part)}, [line], as_json=as_json)
        return
    _tell(output, about, as_json=as_json)


@dataset.command("merge", epilog="Example: idpersona dataset merge part-1 part-2 -o faces")
def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART…", help="Made with --shard I/N, all of them.")],
    output: Output,
    same_person: Annotated[
        float | None, typer.Option(metavar="DISTANCE", help="Instead of that of the parts.")
    ] = None,
    pairs_per_photo: Annotated[
        int | None, typer.Option(metavar="N", help="Instead of that of the parts.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Join what several machines read to one dataset, the same as one machine would have made."""
    from idpersona.training.data.builder.build import merge as run

    given = {"same_person": same_person, "pairs_per_photo": pairs_per_photo}
    changed = {name: value for name, value in given.items() if value is not None}
    _tell(output, run(parts, output, force=force, **changed), as_json=as_json)


@dataset.command("check", epilog="Example: idpersona dataset check faces --hashes")
def check(
    place: Place,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Open every picture and compare its sha256 and size.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also wrong: people with one photo, where a training takes pairs.")
    ] = False,
    most: Annotated[int, typer.Option("--most", metavar="N", help="Lines printed, at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Say what a training would stumble over, a line each; exit status 1 when there is anything."""
    from idpersona.cli.output import result
    from idpersona.training.data.builder.check import check_dataset

    found = check_dataset(place, hashes=hashes, pairs=pairs)
    lines = [str(problem) for problem in found.problems[:most]]
    if len(found.problems) > most:
        lines.append(f"… and {len(found.problems) - most:,} more (--most)")
    lines += found.notes
    lines.append(
        f"{place}: {found.photos:,} photos, {found.people:,} people, {len(found.problems):,} problem(s)"
    )
    result(found.as_dict(), lines, as_json=as_json)
    if found.problems:
        raise typer.Exit(1)


@dataset.command("cache", epilog="Example: idpersona dataset cache faces --base mini")
def cache(
    place: Place,
    base: Annotated[str, typer.Option(metavar="NAME|DIR|HUB_ID", help="Whose autoencoder.")] = "mini",
    device: Annotated[str | None, typer.Option(help="Where to compute [default: cpu].")] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 16,
    as_json: Json = False,
) -> None:
    """Encode the pictures once, framed as the base wants them. Ended, the same command goes on."""
    from idpersona.silence import quiet_libraries

    quiet_libraries()
    from idpersona.cli.output import result
    from idpersona.training.data.builder.latents import cache_latents

    with ExitStack() as stack:
        made = cache_latents(place, base, device=device, batch=batch, progress=_reading(stack, "encoding"))
    line = f"{place}: {made['photos']:,} photos as {made['files']} file(s) {made['pattern']}"
    result(made, [line], as_json=as_json)


def _reading(stack: ExitStack, what: str = "reading photos") -> Callable[[int, int], Callable[[int], object]]:
    """Shows how far the photos are; what was done before is told, not counted."""
    from idpersona.cli.output import Progress, note

    def begin(left: int, done: int) -> Callable[[int], object]:
        if done:
            note(f"{done:,} photos were finished before and are kept")
        if not left:
            return lambda added: None
        shown = stack.enter_context(Progress(left, what))

        def advance(added: int) -> None:
            for _ in range(added):
                shown.advance()

        return advance

    return begin


def _tell(output: Path, about: dict[str, Any], *, as_json: bool) -> None:
    from idpersona.cli.output import result

    counts = about["counts"]
    lines = [f"rejected by {rule}: {number:,}" for rule, number in counts["rejected"].items()]
    lines.append(
        f"{output}: {counts['kept']:,} of {counts['photos']:,} photos, {counts['identities']:,} people, "
        f"{counts['identities_with_pairs']:,} of them in pairs ({counts['pairs']:,})"
    )
    result({"dataset": str(output), **about}, lines, as_json=as_json)
