"""``eval pie-bench``: 700 photos edited by words, and what that keeps and changes (arXiv:2310.01506).

Each photo is inverted and edited with Prompt-to-Prompt as the published runs were: refine, cross-attention
for 40 % of the steps, self-attention for 60 %, local blend and twice the attention for the annotated word.
They were made with Stable Diffusion 1.4 at a guidance of 7.5 in 50 steps, and seeded with 1234; nothing is
drawn at random here (but for ``ledits``, whose seed is an option of its own), so there is no other seed.

What else the published figures rest on is done here, too, so that they can be compared: edits were saved as
JPEG before they were measured (of quality 75, which alone is an MSE of 1 to 4 ×10⁻⁴ and limits PSNR to some
35 dB; ``lossless`` measures them as drawn), black places beside a mask count in the means, masks have a
border of one pixel, and the network of the structure distance sees colours of 0 to 255
(:mod:`~idpersona.eval.edit_measures`, :mod:`~idpersona.eval.masks`, :mod:`~idpersona.eval.structure`). CLIP's
figures differ between machines by up to 1.2 all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval.edit_measures import COLUMNS, EditMeasures, through_jpeg
from idpersona.eval.kept import KeptPictures
from idpersona.eval.masks import SIDE
from idpersona.eval.pie_folder import TYPES, Edit
from idpersona.eval.progress import track
from idpersona.eval.report import Report
from idpersona.eval.statistics import Interval, bootstrap
from idpersona.eval.tables import cell, markdown
from idpersona.eval.weights import pipe_sha256, recipe_sha256, text_sha256
from idpersona.images import photo_sha256
from idpersona.pipelines.base import native_size
from idpersona.pipelines.editing.edit import edit
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.methods import METHODS, get_method, invert
from idpersona.pipelines.inversion.photos import fit_photo
from idpersona.provenance import COMPOSITE_TYPE
from idpersona.seams.text import word_rows
from idpersona.sheets import contact_sheet

KIND = "pie-bench"
CROSS, SELF, WEIGHT = 0.4, 0.6, 2.0
_SHOWN = 16


class Editor:
    """A base, an inversion and their settings; finished pictures are kept, so that a run can go on.

    Args:
        pipe: a stock diffusers pipeline (``load_base``).
        pictures: folder of PNG files, named by everything that determines them.
        method: name of the inversion; ``options`` are its own.
        steps: of DDIM, up and down.
        guidance: scale of the edit; None for the method's usual one.

    Raises:
        UnknownName, BadInput: as :func:`check_settings`.
    """

    def __init__(
        self,
        pipe: Any,
        pictures: Path,
        *,
        method: str = "direct",
        steps: int = 50,
        guidance: float | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        check_settings(method, guidance, options)
        get_method(method, **(options or {})).refuse(pipe)
        self.pipe, self.kept = pipe, KeptPictures(pictures, COMPOSITE_TYPE)
        scale = METHODS[method].guidance if guidance is None else guidance
        self.settings: dict[str, Any] = {"method": method, "steps": steps, "guidance": scale}
        self.options = dict(options or {})
        self.base_sha256, self._recipe = pipe_sha256(pipe), recipe_sha256(pipe)
        self.drawn = 0
        """Edits made by this object, those found in the folder not counted."""

    def control(self, item: Edit) -> tuple[Control | None, str | None]:
        """What the edit takes over of its photo, and what had to be left out of that, in words."""
        if not METHODS[self.settings["method"]].takes_control:
            return None, None
        plain = Control(cross=CROSS, self_attention=SELF)
        if item.blend is None:
            return plain, None
        for word, prompt in zip(item.blend, (item.source, item.target), strict=True):
            if not word_rows(self.pipe.tokenizer, prompt, word):
                return plain, f"{item.name}: edited without blend, '{word}' is not in '{prompt}'"
        blended = Control(
            cross=CROSS, self_attention=SELF, reweight={item.blend[1]: WEIGHT}, blend=item.blend
        )
        return blended, None

    def __call__(self, item: Edit) -> Image.Image:
        """The edit, RGB, of the base's own size."""
        control, _ = self.control(item)
        key = self._key(item, control)
        known = self.kept.find(key, item.name)
        if known is not None:
            return known
        record = invert(self.pipe, item.photo, item.source, **self.settings, **self.options)
        picture = edit(self.pipe, record, item.target, control=control).images[0].convert("RGB")
        self.kept.keep(picture, key, item.name, prompt=item.target, **self.settings)
        self.drawn += 1
        return picture

    def _key(self, item: Edit, control: Control | None) -> str:
        return text_sha256(
            [
                self.base_sha256,
                self._recipe,
                sorted(self.settings.items()),
                sorted(self.options.items()),
                photo_sha256(item.photo),
                item.source,
                item.target,
                control,
            ]
        )


def check_settings(method: str, guidance: float | None, options: Mapping[str, Any] | None = None) -> None:
    """Raise UnknownName or BadInput for what :class:`Editor` does not take, before anything is loaded."""
    get_method(method, **(options or {}))
    if guidance is not None and not (math.isfinite(guidance) and guidance >= 0):
        raise BadInput(f"guidance must be a number of at least 0, got {guidance}")


def evaluate_pie_bench(
    editor: Editor,
    edits: Sequence[Edit],
    *,
    measures: EditMeasures,
    lossless: bool = False,
    quiet: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Make ``edits`` (of :func:`~idpersona.eval.pie_folder.read_edits`) one by one, and measure them.

    Rows: all edits, and those of each type. Edits that cannot be made, or that the base's safety checker
    blocks, are left out and listed.
    """
    values: list[dict[str, Any]] = []
    failures: list[str] = []
    shown: list[tuple[str, list[Image.Image]]] = []
    for item in track(edits, "editing", total=len(edits), quiet=quiet):
        _, lost = editor.control(item)
        failures += [lost] if lost else []
        try:
            drawn = editor(item)
        except BadInput as error:
            failures.append(f"{item.name}: {error}")
            continue
        photo, picture = (fit_photo(one, (SIDE, SIDE)) for one in (item.photo, drawn))
        picture = picture if lossless else through_jpeg(picture)
        measured = measures(photo, picture, item.mask, item.target)
        values.append({"edit": item.name, "type": item.kind, **measured})
        if len(shown) < _SHOWN:
            shown.append((item.name, [photo, picture]))
    rows = [_row("all", values, measures)]
    for kind, name in TYPES.items():
        own = [value for value in values if value["type"] == kind]
        rows += [_row(f"{kind} {name}", own, measures)] if own else []
    return Report(
        kind=KIND,
        settings={
            **editor.settings,
            "options": editor.options,
            "cross": CROSS,
            "self": SELF,
            "weight": WEIGHT,
            "measured_as": "drawn" if lossless else "JPEG",
            **(settings or {}),
        },
        weights={"base": editor.base_sha256, **measures.weights},
        rows=rows,
        people=[{k: None if v != v else v for k, v in value.items()} for value in values],
        table=_table(rows, measures),
        notes=[*measures.missing, *_notes(editor, values)],
        failures=failures,
        sheet=contact_sheet(
            [pair for _, pair in shown], columns=("photo", "edit"), names=[name for name, _ in shown]
        ),
    )


def _row(name: str, values: Sequence[Mapping[str, Any]], measures: EditMeasures) -> dict[str, Any]:
    """Means over edits with their intervals; NaN is left out of them, None where nothing is left."""
    row: dict[str, Any] = {"edits": name, "number": len(values)}
    for measure in measures.names:
        known = [value[measure] for value in values if np.isfinite(value[measure])]
        row[measure] = bootstrap(known) if known else None
    return row


def _notes(editor: Editor, values: Sequence[Mapping[str, Any]]) -> list[str]:
    width, height = native_size(editor.pipe)
    notes: list[str] = []
    if (width, height) != (SIDE, SIDE):
        notes.append(f"edits are drawn at {width}x{height} and scaled to {SIDE}x{SIDE} for measuring")
    covered = sum(bool(np.isnan(value["psnr"])) for value in values)
    if covered:
        notes.append(
            f"edits whose mask covers the whole photo: {covered}; they have no PSNR, LPIPS, MSE and SSIM"
        )
    return notes


def _table(rows: Sequence[Mapping[str, Any]], measures: EditMeasures) -> str:
    columns = {name: COLUMNS[name] for name in measures.names}
    return markdown(
        ("edits", "number", *(column.heading for column in columns.values())),
        [
            [
                row["edits"],
                row["number"],
                *(cell(_scaled(row[name], c.factor), c.digits) for name, c in columns.items()),
            ]
            for row in rows
        ],
    )


def _scaled(value: Interval | None, factor: float) -> Interval | None:
    if value is None:
        return None
    return Interval(value.mean * factor, value.low * factor, value.high * factor, value.n)
