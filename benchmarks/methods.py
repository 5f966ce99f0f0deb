"""All methods in one table: ``python benchmarks/methods.py instantid=reports/instantid wplus=reports/wplus``.

Each folder holds what ``idpersona eval identity --protocol methods --adapter NAME -o FOLDER`` and ``eval
prompt`` with the same words wrote; the people, seeds and judges of all must be the same. ``margin`` is what
own - others has gained over the base without identity, paired by person, with a 95 % interval over people;
``kept`` is the share of the first method's margin that a method keeps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from idpersona.errors import BadInput
from idpersona.eval.identity import FLOOR, scale_name
from idpersona.eval.statistics import Interval, paired_difference
from idpersona.eval.tables import cell, markdown

_SHOWN = ("own", "reference", "others", "own_minus_others", "rank1", "detection")


def interval(value: dict[str, Any]) -> Interval:
    """An interval as a report's JSON has it."""
    return Interval(value["mean"], value["low"], value["high"], value["n"])


def read(folder: Path, kind: str) -> dict[str, Any]:
    """A report of ``folder``."""
    path = folder / f"{kind}.json"
    if not path.is_file():
        raise BadInput(
            f"{path} is not there: run idpersona eval {kind} --protocol methods --adapter NAME -o {folder}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def check_alike(reports: dict[str, dict[str, Any]], scale: str = FLOOR) -> None:
    """Raise BadInput unless all reports measured the same people by one protocol (scales aside), the same
    judges, and ``scale``."""
    (first, one), *others = reports.items()
    for name, report in [(first, one), *others]:
        rows = {(row.get("judge"), row["row"]) for row in report["rows"] if "row" in row}
        lacking = sorted({str(judge) for judge, _ in rows if (judge, scale) not in rows})
        if lacking:
            raise BadInput(f"the report of {name} has no row '{scale}' by {', '.join(lacking)}")
        for what, of in (("people", _people), ("judges", _judges), ("protocol", _protocol)):
            if of(report) != of(one):
                raise BadInput(
                    f"the reports of {first} and {name} differ in their {what}: measure both alike"
                )


def _people(report: dict[str, Any]) -> list[Any]:
    return [person.get("identity") for person in report["people"]]


def _judges(report: dict[str, Any]) -> list[Any]:
    return list(dict.fromkeys(row.get("judge") for row in report["rows"]))


def _protocol(report: dict[str, Any]) -> dict[str, Any]:
    settings = report["settings"]
    plan = {key: value for key, value in settings["protocol"].items() if key not in ("name", "scales")}
    return plan | {"split_sha256": settings["split_sha256"]}


def identity_table(reports: dict[str, dict[str, Any]], scale: str) -> str:
    """Rows of every judge: each method's at ``scale``, and the floor."""
    one = next(iter(reports.values()))
    judges = _judges(one)
    lines = []
    for judge in judges:
        first: float | None = None
        for number, (name, report) in enumerate(reports.items()):
            rows = {row["row"]: row for row in report["rows"] if row["judge"] == judge}
            if not number:
                lines.append(_line(judge, "base without identity", rows[FLOOR], "–", "–"))
            gained = margin(report, judge, scale)
            first = gained.mean if first is None else first
            kept = f"{100 * gained.mean / first:.0f} %"
            lines.append(_line(judge, name, rows[scale], cell(gained), kept))
    header = (
        "judge",
        "method",
        "to their other photos",
        "to the reference",
        "to others' photos",
        "own − others",
        f"rank-1 of {min(one['settings']['protocol']['gallery'], len(one['people']))}",
        "detection",
        "margin",
        "kept",
    )
    return markdown(header, lines)


def margin(report: dict[str, Any], judge: str, scale: str) -> Interval:
    """Own - others at ``scale`` less own - others of the floor, of the same people."""

    def gap(row: str) -> np.ndarray:
        return np.array([p[judge][row]["own"] - p[judge][row]["others"] for p in report["people"]])

    return paired_difference(gap(scale), gap(FLOOR))


def _line(judge: str, name: str, row: dict[str, Any], *more: str) -> list[Any]:
    return [judge, name, *(cell(interval(row[key])) for key in _SHOWN), *more]


def prompt_table(reports: dict[str, dict[str, Any]]) -> str:
    """Hit rates with an identity on, by attribute."""
    shown = [
        row["attribute"] for row in next(iter(reports.values()))["rows"] if row["with_identity"] is not None
    ]
    lines = []
    for number, (name, report) in enumerate(reports.items()):
        rows = {row["attribute"]: row for row in report["rows"]}
        if not number:
            lines.append(["base", *(cell(interval(rows[a]["base"]), percent=True) for a in shown)])
        lines.append([name, *(cell(interval(rows[a]["with_identity"]), percent=True) for a in shown)])
    return markdown(("", *(f"{attribute}, %" for attribute in shown)), lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    folders = {name: Path(folder) for name, _, folder in (text.partition("=") for text in given.reports)}
    try:
        who = {name: read(folder, "identity") for name, folder in folders.items()}
        said = {name: read(folder, "prompt") for name, folder in folders.items()}
        check_alike(who, scale_name(given.scale))
        check_alike(said)
        print(identity_table(who, scale_name(given.scale)), "\n")
        print(prompt_table(said))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
