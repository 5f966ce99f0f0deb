"""``idpersona identify``: photos -> identity file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

EPILOG = "Example: idpersona identify me1.jpg me2.jpg --for instantid --base mini -o me.safetensors"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("identify", epilog=EPILOG)(identify)


def identify(
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO…", help="Photos of one subject, or sample:NAME.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="ME.safetensors", help="File to write.")],
    adapter: Annotated[
        str | None,
        typer.Option("--for", metavar="ADAPTER", help="Read with the encoders this adapter needs."),
    ] = None,
    base: Annotated[str, typer.Option(help="Base that the adapter is for.")] = "mini",
    encoder: Annotated[
        list[str] | None, typer.Option(metavar="NAME…", help="Encoders by name [default: dlib].")
    ] = None,
    subject: Annotated[
        Literal["face", "object"] | None,
        typer.Option(help="What to look for [default: what the adapter draws, else face]."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|HOW",
            help="Of an object, one for each photo: a picture, or for all alpha, face, segment, none.",
        ),
    ] = None,
    face: Annotated[int | None, typer.Option(metavar="N", help="Which face, 0 being the largest.")] = None,
    merge: Annotated[
        Literal["mean", "concat"], typer.Option(help="How several photos become one identity.")
    ] = "mean",
    skip: Annotated[bool, typer.Option("--skip", help="Leave out photos that cannot be read.")] = False,
    consent: Annotated[bool, typer.Option("--consent", help="The person agreed to this use.")] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Refuse non-commercial weights.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was read as JSON.")] = False,
) -> None:
    """Read who is in the photos once, and keep it as a small safe file (no photo is stored in it)."""
    from idpersona.cli.output import note, reading, result
    from idpersona.errors import BadInput
    from idpersona.images import check_output
    from idpersona.jobs.weights import adapters_reading, check_base, reading_weights
    from idpersona.registry import require_commercial
    from idpersona.safety import load_people, read_allowed

    if adapter and encoder:
        raise BadInput("give --for or --encoder, not both")
    if output.suffix != ".safetensors":
        raise BadInput(f"an identity is a .safetensors file: write to {output}.safetensors")
    check_output(output, force=force)
    check_base(base)
    names, how = list(encoder or ["dlib"]), mask[0] if mask and len(mask) == 1 else mask
    if adapter:
        wanted = adapters_reading([adapter], base)
        names, subject = list(wanted.encoders), subject or wanted.subject
        how = how or (wanted.mask if subject == "object" else None)
    subject = subject or "face"
    if commercial:
        require_commercial(reading_weights(names, how if isinstance(how, list) else [how]))
    people = load_people()
    if adapter and subject == "face":
        # What the registry compares people by is kept, too, so that the file can be checked when it is used.
        names += [name for name in people.encoders if people.guards and name not in names]
    with reading(len(photos)) as on_photo:
        identity = read_allowed(
            photos,
            names,
            people,
            subject=subject,
            face=face,
            mask=how,
            consent=consent,
            merge=merge,
            on_error="skip" if skip else "raise",
            on_photo=on_photo,
        )
    identity.save(output, force=force)
    for warning in identity.warnings:
        note(warning)
    description = {"file": str(output), **identity.describe()}
    encoders = ", ".join(f"{name} {list(f.values.shape)}" for name, f in identity.features.items())
    line = f"wrote {output}: {subject} from {len(identity.sources)} photo(s), {encoders}"
    result(description, [line], as_json=as_json)
