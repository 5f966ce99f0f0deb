"""``idpersona compare``: are two photos or identity files one person?"""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example: idpersona compare me.safetensors picture.png --json"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("compare", epilog=EPILOG)(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Photo, sample:NAME, or identity file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encoder to compare by [default: one that fits].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare two identities. For every measure larger is more alike, and 1 is equal."""
    from idpersona.cli.output import note, result
    from idpersona.encoders import read_identity, similarity
    from idpersona.identity import Identity

    loaded = [Identity.load(name) if name.endswith(".safetensors") else None for name in (a, b)]
    # A photo is read with an encoder that the identity file has, when there is one.
    offered = [name for identity in loaded if identity for name in identity.features]
    chosen = encoder or ("dlib" if "dlib" in offered or not offered else offered[0])
    pair = []
    for name, identity in zip((a, b), loaded, strict=True):
        read = identity or read_identity([name], chosen)
        for warning in () if identity else read.warnings:
            note(f"{name}: {warning}")
        pair.append(read)
    found = similarity(pair[0], pair[1], encoder if all(loaded) else chosen)
    same = "the same person" if found["same_person"] else "different people"
    line = (
        f"{same}: {found['measure']} {found['similarity']:.3f}, threshold {found['threshold']:.3f} "
        f"({found['encoder']})"
    )
    result(dict(found), [line], as_json=as_json)
