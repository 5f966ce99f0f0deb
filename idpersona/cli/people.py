"""``idpersona people``: who may not be used, who may; a file on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from idpersona.safety.people import People

people = typer.Typer(
    help="The local registry of people that references and pictures are checked against.",
    add_completion=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
FEW = 5


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.add_typer(people, name="people", epilog="Example: idpersona people add Ada ada*.jpg --policy deny")


@people.command("add", epilog="Example: idpersona people add Ada ada1.jpg ada2.jpg --policy deny")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Any name, unique in the registry.")],
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO…", help="Photos of the person, five or more.")
    ],
    policy: Annotated[
        Literal["deny", "allow"], typer.Option(help="deny: never. allow: also where others are denied.")
    ] = "deny",
    encoder: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Encoders [default: dlib].")
    ] = None,
    face: Annotated[int | None, typer.Option(metavar="N", help="Which face, 0 being the largest.")] = None,
    contact: Annotated[str, typer.Option(help="Whom to ask; shown when the person is refused.")] = "",
    expires: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="Last day of the entry.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the entry of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Add a person. Kept are averaged descriptors, no photos."""
    from idpersona.cli.output import note, reading, result
    from idpersona.encoders import read_identity
    from idpersona.safety.people import Person, people_path
    from idpersona.safety.thresholds import centroid, get_threshold

    names = encoder or ["dlib"]
    thresholds = {each: get_threshold(each) for each in names}
    path = people_path()
    registry = _load(path)
    with reading(len(photos)) as on_photo:
        identity = read_identity(photos, names, face=face, merge="concat", on_photo=on_photo)
    centroids = {each: centroid(identity.features[each].values, t.measure) for each, t in thresholds.items()}
    person = Person(name, policy, centroids, len(identity.sources), contact=contact, expires=expires)
    registry.add(person, force=force).save(path)
    for warning in identity.warnings:
        note(warning)
    if len(identity.sources) < FEW:
        note(f"{len(identity.sources)} photo(s) only: with {FEW} or more the person is missed less often")
    line = f"{path}: '{name}' is on the {policy} list, from {person.photos} photo(s)"
    result({"file": str(path), **person.describe()}, [line], as_json=as_json)


def _load(path: Path) -> People:
    from idpersona.safety.people import People, load_people

    # The first person makes the file, also when IDPERSONA_PEOPLE names one that is not there yet.
    return load_people(path) if path.exists() else People()


@people.command("list", epilog="Example: idpersona people list --json")
def list_people(as_json: Json = False) -> None:
    """List the people, without their descriptors."""
    from idpersona.cli.output import result, table
    from idpersona.safety.people import load_people, people_path

    registry = load_people()
    rows = [
        [
            person.name,
            person.policy + (" (expired)" if person.expired else ""),
            ",".join(sorted(person.centroids)),
            str(person.photos),
            person.expires or "never",
            person.contact or "-",
        ]
        for person in registry.entries
    ]
    lines = [f"{people_path()}: people who match nobody here are {_word(registry.others)}"]
    lines += (
        table(["name", "policy", "encoders", "photos", "expires", "contact"], rows)
        if rows
        else ["nobody yet"]
    )
    data = {
        "file": str(people_path()),
        "others": registry.others,
        "people": [person.describe() for person in registry.entries],
    }
    result(data, lines, as_json=as_json)


@people.command("remove", epilog="Example: idpersona people remove Ada")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As listed.")],
    as_json: Json = False,
) -> None:
    """Remove a person."""
    from idpersona.cli.output import result
    from idpersona.safety.people import load_people, people_path

    load_people().remove(name).save(people_path())
    result({"file": str(people_path()), "removed": name}, [f"removed '{name}'"], as_json=as_json)


@people.command("others", epilog="Example: idpersona people others deny")
def others(
    policy: Annotated[Literal["allow", "deny"], typer.Argument(help="For references that match nobody.")],
    as_json: Json = False,
) -> None:
    """Say what happens with people not in the registry: with deny, only the allow list may be used."""
    import dataclasses

    from idpersona.cli.output import result
    from idpersona.safety.people import people_path

    path = people_path()
    dataclasses.replace(_load(path), others=policy).save(path)
    line = f"{path}: people who match nobody here are {_word(policy)}"
    result({"file": str(path), "others": policy}, [line], as_json=as_json)


def _word(policy: str) -> str:
    return {"allow": "allowed", "deny": "denied"}[policy]
