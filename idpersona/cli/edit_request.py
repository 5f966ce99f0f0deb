"""What was asked of ``edit``, as typed, and whether it goes together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from idpersona.cli import arguments
from idpersona.cli.request import Scaled
from idpersona.errors import BadInput, OutputError
from idpersona.images import SAMPLE_PREFIX, check_output, photo_sha256
from idpersona.options import AdapterOption


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """The options of the command; None and empty are not decided."""

    photo: str
    prompt: str
    source: str | None
    output: Path | None
    method: str | None
    words: tuple[str, ...]
    emphasis: Mapping[str, float]
    keep_background: bool
    kind: str
    cross_steps: float | None
    self_steps: float | None
    strength: float | None
    detail: bool
    negative: str | None
    identity: str | None
    adapters: tuple[Scaled, ...]
    scale: float | None
    options: tuple[AdapterOption, ...]
    inversion: Path | None
    save_inversion: Path | None
    grid: bool
    base: str
    steps: int | None
    guidance: float | None
    size: tuple[int, int] | None
    crop: str | None
    face: int | None
    device: str | None
    dtype: str | None
    consent: bool
    force: bool

    def checked(self) -> EditRequest:
        """Itself, when nothing is out of range, contradicts the rest, or cannot be written.

        Raises:
            BadInput: naming the option.
            OutputError: a file that exists, or cannot be written.
        """
        arguments.strengths(self.scale, self.steps, self.guidance)
        for option, part in (
            ("--cross-steps", self.cross_steps),
            ("--self-steps", self.self_steps),
            ("--strength", self.strength),
        ):
            if part is not None:
                arguments.number(option, part, (0.0, 1.0))
        if self.dtype is not None:
            arguments.one_of("dtype", self.dtype, ("fp32", "fp16", "bf16"))
        if self.crop is not None:
            arguments.one_of("crop", self.crop, ("face", "middle"))
        arguments.one_of("kind", self.kind, ("refine", "replace"))
        for option, text in (
            ("--prompt", self.prompt),
            ("--source", self.source),
            ("--negative", self.negative),
        ):
            if text is not None:
                arguments.text(option, text)
        self._check_words()
        arguments.device(self.device)
        self._check_files()
        return self

    def _check_words(self) -> None:
        for option, word in (
            ("PHOTO", self.photo),
            ("--prompt", self.prompt),
            ("--source", self.source),
            ("--base", self.base),
            ("--identity", self.identity),
            ("--method", self.method),
            *(("--words", word) for word in self.words),
            *(("--adapter", name) for name, _ in self.adapters),
        ):
            if word is not None and not word.strip():
                raise BadInput(f"{option} is empty")
        if self.crop == "face" and self.size is not None and self.size[0] != self.size[1]:
            raise BadInput(f"--crop face makes square pictures, not {self.size[0]}x{self.size[1]}")
        if self.scale is not None and not (self.adapters or self.identity):
            raise BadInput("--scale is the strength of an adapter: give --adapter")
        if self.inversion is not None:
            for option, given in (("--method", self.method), ("--save-inversion", self.save_inversion)):
                if given is not None:
                    raise BadInput(f"{option} is for a new inversion, and --inversion gives one")

    def _check_files(self) -> None:
        photo_sha256(self.photo)  # so that a photo that is not there is not told as a folder of the result's
        if self.target.suffix.lower() != ".png":
            raise OutputError(
                f"pictures are written as PNG: give a name that ends in .png, not {self.target.name!r}"
            )
        check_output(self.target, force=self.force)
        if self.grid:
            check_output(self.sheet, force=self.force)
        if self.save_inversion is not None:
            if self.save_inversion.suffix != ".safetensors":
                raise OutputError(
                    f"an inversion is a .safetensors file: write to {self.save_inversion}.safetensors"
                )
            check_output(self.save_inversion, force=self.force)

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
