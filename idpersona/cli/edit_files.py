"""Files that ``edit`` writes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, OutputError
from idpersona.images import SAMPLE_PREFIX, atomic_output, check_output, photo_sha256
from idpersona.jobs.edit_draw import Edited
from idpersona.jobs.edit_request import EditRequest
from idpersona.provenance import COMPOSITE_TYPE, write_png


@dataclass(frozen=True, kw_only=True)
class EditFiles:
    """Where the results go.

    Attributes:
        photo: as typed.
        output: None for a name made from the photo's.
        inversion: where the inversion is saved; None for nowhere.
        grid: whether there is a sheet of strengths.
        force: overwrite what is there.
    """

    photo: str
    output: Path | None
    inversion: Path | None
    grid: bool
    force: bool

    @classmethod
    def of(
        cls, request: EditRequest, output: Path | None, inversion: Path | None, *, force: bool
    ) -> EditFiles:
        """The files of a request, when all of them can be written.

        Raises:
            BadInput: the photo cannot be read, or options contradict each other.
            OutputError: a file that exists, or cannot be written.
        """
        files = cls(photo=request.photo, output=output, inversion=inversion, grid=request.grid, force=force)
        if inversion is not None and request.inversion is not None:
            raise BadInput("--save-inversion is for a new inversion, and --inversion gives one")
        photo_sha256(files.photo)  # so that a photo that is not there is not told as a folder of the result's
        if files.target.suffix.lower() != ".png":
            raise OutputError(
                f"pictures are written as PNG: give a name that ends in .png, not {files.target.name!r}"
            )
        check_output(files.target, force=force)
        if files.grid:
            check_output(files.sheet, force=force)
        if inversion is not None:
            if inversion.suffix != ".safetensors":
                raise OutputError(f"an inversion is a .safetensors file: write to {inversion}.safetensors")
            check_output(inversion, force=force)
        return files

    @property
    def target(self) -> Path:
        """The picture to write: beside the photo where nothing else is said, a sample's in this folder."""
        if self.output is not None:
            return self.output.expanduser()
        if self.photo.startswith(SAMPLE_PREFIX):
            return Path(f"{self.photo.removeprefix(SAMPLE_PREFIX)}-edited.png")
        photo = Path(self.photo).expanduser()
        return photo.with_name(f"{photo.stem}-edited.png")

    @property
    def sheet(self) -> Path:
        """The sheet of ``--grid``."""
        return self.target.with_stem(f"{self.target.stem}-grid")

    def write(self, edited: Edited) -> dict[Path, dict[str, Any]]:
        """All files, or none of them; what is recorded in each."""
        written: dict[Path, dict[str, Any]] = {}
        with ExitStack() as files:
            if self.inversion is not None:
                part = files.enter_context(atomic_output(self.inversion, force=self.force))
                edited.record.save(part, force=True)
                written[self.inversion] = {"inversion_of": self.photo, "passes": edited.record.passes}
            if edited.sheet is not None:
                part = files.enter_context(atomic_output(self.sheet, force=self.force))
                picture, told = edited.sheet
                write_png(picture, part, told, force=True, source_type=COMPOSITE_TYPE)
                written[self.sheet] = told
            part = files.enter_context(atomic_output(self.target, force=self.force))
            write_png(edited.picture, part, edited.settings, force=True, source_type=COMPOSITE_TYPE)
        return {self.target: edited.settings, **written}
