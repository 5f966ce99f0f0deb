"""Pieces of the page that Gradio has no component for, as HTML; everything that people typed is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from PIL import Image

from idpersona.app.engine import Ticket
from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.uploads import thumbnail

EMPTY = '<p class="idp-hint">{}</p>'


def hint(text: str) -> str:
    """A quiet sentence."""
    return EMPTY.format(escape(text))


def notes(texts: Iterable[str]) -> str:
    """What the user should know, as a list."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="idp-notes" aria-label="Notes">{items}</ul>' if items else ""


def progress(ticket: Ticket[Any], ahead: int) -> str:
    """Where a job is: in the line, loading, or at which step, with what is drawn so far."""
    if ticket.state == "waiting":
        told = f"In line: {ahead} job{'s' if ahead != 1 else ''} before yours" if ahead else "Starting"
        return f'<div class="idp-progress"><p>{told}</p><progress aria-label="Waiting"></progress></div>'
    where = escape(ticket.where or "reading")
    if not ticket.steps:
        told = f"{where[:1].upper()}{where[1:]} …"
        return f'<div class="idp-progress"><p>{told}</p><progress aria-label="{where}"></progress></div>'
    seen = ""
    if ticket.preview is not None:
        data = base64.b64encode(ticket.preview).decode("ascii")
        seen = f'<img class="idp-preview" alt="Preview of the picture" src="data:image/jpeg;base64,{data}">'
    told = f"Step {ticket.step} of {ticket.steps} · {where}"
    bar = f'<progress aria-label="Steps" max="{ticket.steps}" value="{ticket.step}"></progress>'
    return f'<div class="idp-progress"><p>{told}</p>{bar}{seen}</div>'


def data_url(image: Image.Image, side: int = 320) -> str:
    """A small copy of a picture, inside the page."""
    buffer = io.BytesIO()
    thumbnail(image, side).save(buffer, format="WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def address(picture: StoredPicture, part: str = "after") -> str:
    """Where a browser fetches its picture."""
    return f"studio/pictures/{picture.id}" + ("" if part == "after" else f"?part={part}")


def gallery(session: Session, kinds: Sequence[str], empty: str) -> str:
    """The pictures of a session, newest first, each with what can be done with it."""
    with session.lock:
        pictures = [one for one in reversed(session.pictures.values()) if one.kind in kinds]
    if not pictures:
        return hint(empty)
    return f'<div class="idp-gallery">{"".join(_figure(one) for one in pictures)}</div>'


def _figure(picture: StoredPicture) -> str:
    told = picture.settings
    prompt = str(told.get("prompt") or "")
    width, height = picture.size
    facts = [f"seed {told['seed']}"] if "seed" in told else []
    facts += likeness(picture)
    link = address(picture)
    name = f"idpersona-{picture.id}.png"
    actions = ""
    if picture.kind != "edit":
        actions = f'<button type="button" data-action="vary" data-id="{picture.id}">Variations</button>'
    actions += f'<button type="button" data-action="reuse" data-id="{picture.id}">Use settings</button>'
    return (
        f'<figure><a href="{link}" target="_blank" rel="noopener">'
        f'<img src="{link}" alt="{escape(prompt)}" width="{width}" height="{height}" loading="lazy"></a>'
        f"<figcaption><span>{escape(prompt)}</span><small>{escape(' · '.join(facts))}</small>"
        f'<span class="idp-actions"><a href="{link}" download="{name}">Download</a>{actions}</span>'
        f"</figcaption></figure>"
    )


def likeness(picture: StoredPicture) -> list[str]:
    """What was measured of a picture, in words; nothing where nothing was."""
    if not picture.judge:
        return []
    if picture.similarity is None:
        return [f"no face found by {picture.judge}"]
    return [f"likeness {picture.similarity:.2f} (one person: {picture.threshold:.2f} or more)"]


def slider(picture: StoredPicture) -> str:
    """A photo and its edit, one over the other, with a handle between them that keys move, too."""
    width, height = picture.size
    prompt = escape(str(picture.settings.get("prompt") or ""))
    before, after = address(picture, "before"), address(picture)
    return (
        f'<div class="idp-slider" style="--cut:50%;aspect-ratio:{width}/{height}">'
        f'<img src="{before}" alt="The photo before the edit">'
        f'<img class="idp-after" src="{after}" alt="The edit: {prompt}">'
        '<input type="range" min="0" max="100" value="50" aria-label="How much of the edit is shown"></div>'
        f'<p class="idp-actions"><a href="{after}" download="idpersona-{picture.id}.png">Download</a></p>'
    )


def strip(items: Sequence[tuple[str, str]]) -> str:
    """Small pictures in a row: (address or data URL, what it shows)."""
    if not items:
        return ""
    shown = "".join(
        f'<figure><img src="{url}" alt="{escape(name)}"><figcaption>{escape(name)}</figcaption></figure>'
        for url, name in items
    )
    return f'<div class="idp-strip">{shown}</div>'


def boxes(
    image: Image.Image, name: str, size: tuple[int, int], faces: Sequence[tuple[float, float, float, float]]
) -> str:
    """A copy of a photo of a ``size`` with a numbered box around each face (x0, y0, x1, y1 in its pixels)."""
    width, height = size
    stroke = max(width, height) / 160
    letter = max(width, height) / 18
    marks = "".join(
        f'<rect x="{x0:.0f}" y="{y0:.0f}" width="{x1 - x0:.0f}" height="{y1 - y0:.0f}" '
        f'stroke-width="{stroke:.1f}"/><text x="{x0 + stroke:.0f}" y="{y0 + letter:.0f}" '
        f'font-size="{letter:.0f}">{number}</text>'
        for number, (x0, y0, x1, y1) in enumerate(faces)
    )
    told = f"{name}: {len(faces)} face{'s' if len(faces) != 1 else ''} found"
    return (
        f'<figure class="idp-faces"><div style="aspect-ratio:{width}/{height}">'
        f'<img src="{data_url(image, 640)}" alt="{escape(told)}">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{marks}</svg></div>'
        f"<figcaption>{escape(told)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; cells are HTML already."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="idp-table" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )
