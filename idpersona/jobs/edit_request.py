"""What was asked of ``edit``, as typed, and whether it goes together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from idpersona.errors import BadInput
from idpersona.jobs import limits
from idpersona.jobs.request import Scaled
from idpersona.options import AdapterOption


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """What decides an edit; None and empty are not decided. Names and ranges are the command's options.

    Attributes:
        photo: path, or ``sample:NAME``.
        prompt, source: what the picture shall show, and what the photo shows. Without a prompt an adapter
            alone changes the photo.
        inversion: file of one that was made before.
        grid: draw a ladder of strengths, too.
        consent: the person in the photo agreed.
    """

    photo: str
    prompt: str | None
    source: str | None = None
    method: str | None = None
    words: tuple[str, ...] = ()
    emphasis: Mapping[str, float] = field(default_factory=dict[str, float])
    keep_background: bool = False
    kind: str = "refine"
    cross_steps: float | None = None
    self_steps: float | None = None
    strength: float | None = None
    detail: bool = True
    negative: str | None = None
    identity: str | None = None
    adapters: tuple[Scaled, ...] = ()
    scale: float | None = None
    options: tuple[AdapterOption, ...] = ()
    inversion: Path | None = None
    grid: bool = False
    base: str = "mini"
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    crop: str | None = None
    face: int | None = None
    device: str | None = None
    dtype: str | None = None
    consent: bool = False

    def checked(self) -> EditRequest:
        """Itself, when nothing is out of range or contradicts the rest.

        Raises:
            BadInput: naming the option.
        """
        limits.strengths(self.scale, self.steps, self.guidance)
        limits.own_scales(self.adapters, ())
        for option, part in (
            ("--cross-steps", self.cross_steps),
            ("--self-steps", self.self_steps),
            ("--strength", self.strength),
        ):
            if part is not None:
                limits.number(option, part, (0.0, 1.0))
        if self.dtype is not None:
            limits.one_of("dtype", self.dtype, ("fp32", "fp16", "bf16"))
        if self.crop is not None:
            limits.one_of("crop", self.crop, ("face", "middle"))
        limits.one_of("kind", self.kind, ("refine", "replace"))
        for option, text in (
            ("--prompt", self.prompt),
            ("--source", self.source),
            ("--negative", self.negative),
        ):
            if text is not None:
                limits.text(option, text)
        if self.prompt is None and not self.adapters:
            raise BadInput("give --prompt, or an --adapter that changes the photo")
        self._check_words()
        limits.device(self.device)
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
        if self.inversion is not None and self.method is not None:
            raise BadInput("--method is for a new inversion, and --inversion gives one")
