"""Contact sheets: pictures in rows and columns with captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

_CAPTION = 14


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    cell: int = 128,
) -> Image.Image:
    """An RGB sheet: ``rows`` of pictures (None leaves a gap), headings above and names to the left."""
    width = max((len(row) for row in rows), default=0)
    left = 96 if names else 0
    top = _CAPTION if columns else 0
    sheet = Image.new("RGB", (max(1, left + width * cell), max(1, top + len(rows) * cell)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, text in enumerate(columns):
        draw.text((left + x * cell + 2, 1), text[: cell // 6], fill="black")
    for y, row in enumerate(rows):
        if names:
            draw.text((2, top + y * cell + cell // 2), names[y][:15], fill="black")
        for x, picture in enumerate(row):
            if picture is not None:
                resized = picture.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS)
                sheet.paste(resized, (left + x * cell, top + y * cell))
    return sheet
