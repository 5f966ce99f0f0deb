"""Tables that read as text and render as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from idpersona.eval.statistics import Interval, ranking

Cell = str | float | int | Interval | None


def cell(value: Cell, digits: int = 3, *, percent: bool = False) -> str:
    """``0.352 [0.331, 0.372]`` for an interval, ``–`` for what was not measured; ``percent`` multiplies by
    100.
    """
    factor = 100.0 if percent else 1.0
    digits = 1 if percent else digits
    if value is None:
        return "–"
    if isinstance(value, Interval):
        low, high = value.low * factor, value.high * factor
        return f"{value.mean * factor:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if isinstance(value, float):
        return f"{value * factor:.{digits}f}"
    return str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A markdown table with padded columns; cells that are strings are taken as they are.

    ``|`` within a cell is escaped, so that a name cannot break the table.
    """
    body = [[cell(value).replace("|", "\\|") for value in row] for row in rows]
    for row in body:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under {len(header)} headings")
    widths = [max(len(str(line[i])) for line in [list(header), *body]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(row) for row in body)])


def ranking_line(what: str, rows: Mapping[str, Interval]) -> str:
    """``what: a > b, c`` where intervals are apart; what overlaps stands together and is not ranked."""
    groups = ranking(rows)
    if len(groups) == 1 and len(rows) > 1:
        return f"{what}: not ranked, the intervals overlap ({', '.join(groups[0])})"
    return f"{what}: " + " > ".join(" ~ ".join(group) for group in groups)
