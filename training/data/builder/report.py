"""``report.html``: what became of the photos, in one page that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from idpersona.training.data.builder.rules import ORDER

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
figure { display: inline-block; margin: .3rem; width: 110px; vertical-align: top; }
figcaption { font-size: 11px; overflow-wrap: anywhere; } svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } svg text { fill: #ddd; } }
"""


@dataclass(frozen=True)
class Shown:
    """A photo in the report: the rule that refused it ("" for none), its file, a text, a JPEG in base64."""

    rule: str
    file: str
    text: str
    picture: str


def write_report(
    path: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], shown: Sequence[Shown]
) -> None:
    """Write the page.

    Args:
        path: to write.
        about: what ``dataset.json`` will hold.
        rows: of ``metadata.jsonl``.
        shown: photos to be shown small.
    """
    counts, settings = about["counts"], about["settings"]
    sizes = Counter(Counter(row["identity"] for row in rows).values())
    parts = [
        "<h1>Dataset of faces</h1>",
        f"<p>{counts['kept']:,} of {counts['photos']:,} photos kept, {counts['identities']:,} people, "
        f"{counts['identities_with_pairs']:,} of them with two photos or more; {counts['pairs']:,} pairs; "
        f"consent for {counts['with_consent']:,} photos.</p>",
        "<h2>Why photos were rejected</h2>",
        "<p>Rules are asked in this order; the first that refuses counts.</p>",
        _table(
            ["rule", "wants that", "rejected"],
            [[rule, wants, f"{counts['rejected'].get(rule, 0):,}"] for rule, wants in ORDER.items()],
        ),
        "<h2>The photos that stay</h2>",
        histogram([100 * row["face_area"] for row in rows], "Area of the largest face, % of the picture"),
        histogram([min(row["width"], row["height"]) for row in rows], "Shorter side, pixels"),
        bars([(str(size), sizes[size]) for size in sorted(sizes)][:40], "People with so many photos"),
        _table(["licence", "photos"], _licences(rows)),
        _pictures("Some of them", [one for one in shown if not one.rule]),
        _pictures("Some that were rejected", [one for one in shown if one.rule]),
        "<h2>Settings</h2>",
        _table(["setting", "value"], [[name, str(value)] for name, value in settings.items()]),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Dataset of faces</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def histogram(values: Sequence[float], title: str, count: int = 24) -> str:
    """An SVG of how often values lie where, in ``count`` equal steps; a sentence where there are none."""
    if not values:
        return f"<p>{escape(title)}: no photos.</p>"
    heights, edges = np.histogram(np.asarray(values, float), bins=count)
    labels = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges.tolist())]
    return bars(list(zip(labels, heights.tolist(), strict=True)), title)


def bars(columns: Sequence[tuple[str, int]], title: str) -> str:
    """An SVG of columns with their labels; each says its number where the pointer rests."""
    if not columns:
        return f"<p>{escape(title)}: no photos.</p>"
    width, height, foot = 640, 150, 34
    wide, tallest = width / len(columns), max(number for _, number in columns) or 1
    said = ", ".join(f"{label}: {number}" for label, number in columns)
    parts = [f"<title>{escape(title)}</title><desc>{escape(said)}</desc>"]
    for place, (label, number) in enumerate(columns):
        tall = height * number / tallest
        parts.append(
            f'<rect x="{place * wide:.1f}" y="{height - tall + 16:.1f}" width="{max(wide - 1.5, 1):.1f}" '
            f'height="{tall:.1f}" fill="#4a7fb5"><title>{escape(label)}: {number}</title></rect>'
        )
    every = max(1, len(columns) // 6)
    for place in range(0, len(columns), every):
        label = columns[place][0].split(" to ")[0]
        parts.append(
            f'<text x="{place * wide:.1f}" y="{height + foot:.1f}" font-size="11">{escape(label)}</text>'
        )
    parts.append(f'<text x="0" y="11" font-size="12">{escape(title)} (highest: {tallest:,})</text>')
    return (
        f'<p><svg role="img" viewBox="0 0 {width} {height + foot + 6}" width="{width}" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></p>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _licences(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    found = Counter(row["licence"] or "unknown" for row in rows)
    return [
        [name, f"{number:,}"]
        for name, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:20]
    ]


def _pictures(title: str, shown: Sequence[Shown]) -> str:
    figures = [
        f'<figure><img alt="{escape(_alt(one))}" src="data:image/jpeg;base64,{one.picture}">'
        f"<figcaption>{escape(one.file)}<br>{escape(one.text)}</figcaption></figure>"
        for one in shown
    ]
    return f"<h3>{escape(title)}</h3>{''.join(figures) or '<p>None.</p>'}"


def _alt(one: Shown) -> str:
    return (
        f"Rejected photo {one.file}: {one.text}"
        if one.rule
        else f"Kept photo {one.file}: {one.text or 'no caption'}"
    )
