"""Pictures of a class as a base draws them before it is taught anybody (DreamBooth, arXiv:2208.12242)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from idpersona.errors import BadInput, PhotoError
from idpersona.provenance import read_settings, write_png

_TURNS = 10


@dataclass(frozen=True)
class Drawn:
    """How a class is drawn; every picture says so itself.

    Attributes:
        base: name, folder or hub id; not what lies there.
        guidance: scale of it.
        size: width and height in pixels.
    """

    base: str
    prompt: str
    steps: int
    guidance: float
    size: tuple[int, int]


class Prior:
    """``count`` pictures of a class in ``folder``, the seed of each being its number, or that and a multiple
    of ``count`` where a safety checker objects.

    Several trainings may share them; pictures that were drawn in another way are not taken.
    """

    def __init__(self, folder: Path, drawn: Drawn, count: int):
        self.folder, self.drawn, self.count = folder, drawn, count

    @property
    def files(self) -> list[Path]:
        return [self.folder / f"{n:04d}.png" for n in range(self.count)]

    def check(self) -> None:
        """Raise BadInput where one that is there already was drawn in another way."""
        wanted = self._about()
        for path in self.files:
            if not path.is_file():
                continue
            try:
                found = read_settings(path)
            except PhotoError as error:
                raise BadInput(f"class pictures: {error}; choose an empty folder") from error
            other = sorted(name for name in wanted if found.get(name) != wanted[name])
            if other:
                raise BadInput(
                    f"class pictures: {path} was drawn with another {', '.join(other)}: "
                    "choose an empty folder"
                )

    def draw(self, pipe: Any) -> None:
        """Draw those that are not there yet."""
        for n, path in enumerate(self.files):
            if path.is_file():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = self.drawn.size
            for turn in range(_TURNS):
                drawn = pipe(
                    self.drawn.prompt,
                    num_inference_steps=self.drawn.steps,
                    guidance_scale=self.drawn.guidance,
                    width=width,
                    height=height,
                    generator=torch.Generator().manual_seed(n + turn * self.count),
                )
                # What a safety checker objects to comes back black.
                if not any(getattr(drawn, "nsfw_content_detected", None) or ()):
                    break
            else:
                raise BadInput(
                    f"the safety checker objects to all of '{self.drawn.prompt}': choose another prompt"
                )
            picture = drawn.images[0]
            # Two trainings may come to it at once; their pictures are the same.
            write_png(picture.convert("RGB"), path, self._about(), force=True)

    def _about(self) -> dict[str, Any]:
        return asdict(self.drawn) | {"size": list(self.drawn.size)}
