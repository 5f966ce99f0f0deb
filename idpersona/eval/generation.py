"""Drawing many pictures for measuring: in batches, each from its own seed, kept on disk so that a run can
resume.

A picture depends on its own shot only: every row of a batch has its own generator, so that batch size and
order change nothing but rounding.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval.kept import KeptPictures
from idpersona.eval.progress import track
from idpersona.eval.weights import modules_sha256, pipe_sha256, recipe_sha256, text_sha256
from idpersona.hashing import identity_sha256

if TYPE_CHECKING:
    from idpersona.identity import Identity

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shot:
    """One picture to draw; without ``identity`` and ``together`` it is the base's.

    Attributes:
        pose: float32 [5, 2] in its pixels; None takes the identity's own.
        together: several people in this picture instead of ``identity``, each in a box (x, y, width, height).
    """

    prompt: str
    seed: int
    identity: Identity | None = None
    pose: np.ndarray | None = None
    scale: float = 1.0
    together: tuple[tuple[Identity, Box], ...] = ()

    @property
    def people(self) -> tuple[Identity, ...]:
        """Everybody in it."""
        alone = () if self.identity is None else (self.identity,)
        return alone + tuple(person for person, _ in self.together)


class Studio:
    """A base, an adapter or none, and the settings under which all pictures of a run are drawn.

    Args:
        pipe: a stock diffusers pipeline (``load_base``).
        adapter: from ``load_adapter``; None can draw shots without identity only.
        size: width and height of the pictures, pixels.
        cache: folder of finished pictures (PNG, named by everything that determines them); None keeps none.
        options: further keyword arguments of ``adapter.attach``.
    """

    def __init__(
        self,
        pipe: Any,
        adapter: Any | None = None,
        *,
        steps: int,
        guidance: float,
        size: int,
        negative_prompt: str | None = None,
        batch: int = 8,
        cache: Path | None = None,
        quiet: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        if batch < 1:
            raise BadInput(f"batch must be at least 1, got {batch}")
        self.pipe, self.adapter, self.batch, self.quiet = pipe, adapter, batch, quiet
        self.kept = KeptPictures(cache)
        self.options = dict(options or {})
        self.settings: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "height": size,
            "width": size,
            "negative_prompt": negative_prompt,
        }
        self.base_sha256 = pipe_sha256(pipe)
        self.adapter_sha256 = modules_sha256(adapter.parts) if adapter is not None else None
        self._recipe = recipe_sha256(pipe)
        self.drawn = 0
        """Pictures drawn by this object, those found in the cache not counted."""

    def sized(self, width: int, height: int) -> Studio:
        """The same for pictures of another size, in pixels; nothing is hashed again."""
        other = copy.copy(self)
        other.settings = {**self.settings, "width": width, "height": height}
        other.drawn = 0
        return other

    @property
    def weights(self) -> dict[str, str | None]:
        """sha256 of what draws, for the report."""
        return {"base": self.base_sha256, "adapter": self.adapter_sha256}

    def draw(self, shots: Sequence[Shot], label: str = "drawing") -> list[Image.Image]:
        """One RGB picture per shot, in their order."""
        keys = [self._key(shot) for shot in shots]
        found = {i: picture for i, key in enumerate(keys) if (picture := self.kept.find(key)) is not None}
        missing = [i for i in range(len(shots)) if i not in found]
        batches = self._batches(shots, missing)
        for batch in track(batches, label, total=len(batches), quiet=self.quiet):
            for index, picture in zip(batch, self._draw_batch([shots[i] for i in batch]), strict=True):
                self.kept.keep(picture, keys[index])
                found[index] = picture
        self.drawn += len(missing)
        return [found[i] for i in range(len(shots))]

    def _batches(self, shots: Sequence[Shot], indices: Sequence[int]) -> list[list[int]]:
        # attach() takes one scale for a call, an identity for all rows or none, and one set of regions.
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i in indices:
            shot = shots[i]
            alone = i if shot.together else None
            key = (bool(shot.people), alone, shot.pose is not None, shot.scale if shot.people else 0.0)
            groups.setdefault(key, []).append(i)
        return [g[s : s + self.batch] for g in groups.values() for s in range(0, len(g), self.batch)]

    @torch.no_grad()
    def _draw_batch(self, shots: Sequence[Shot]) -> list[Image.Image]:
        # On the CPU, so that pictures do not depend on the device's own random numbers.
        generators = [torch.Generator(device="cpu").manual_seed(shot.seed) for shot in shots]
        settings = dict(self.settings)
        if settings["negative_prompt"] is not None:
            settings["negative_prompt"] = [settings["negative_prompt"]] * len(shots)
        with contextlib.ExitStack() as scope:
            scope.enter_context(_silent(self.pipe))
            if shots[0].people:
                if self.adapter is None:
                    raise BadInput("a shot with an identity needs an adapter")
                held = self.adapter.holds_pose
                poses = [shot.pose for shot in shots if held and shot.pose is not None]
                pose = np.stack(poses) if poses else None
                together = dict(shots[0].together)
                identities = together or [shot.identity for shot in shots]
                scope.enter_context(
                    self.adapter.attach(
                        self.pipe, identities, scale=shots[0].scale, pose=pose, **self.options
                    )
                )
            result = self.pipe([shot.prompt for shot in shots], generator=generators, **settings)
        return [picture.convert("RGB") for picture in result.images]

    def _key(self, shot: Shot) -> str:
        with_identity = bool(shot.people)
        return text_sha256(
            [
                self.base_sha256,
                self._recipe,
                sorted(self.settings.items()),
                shot.prompt,
                shot.seed,
                (self.adapter_sha256, getattr(self.adapter, "config", None)) if with_identity else None,
                sorted(self.options.items()) if with_identity else None,
                float(shot.scale) if with_identity else None,
                [identity_sha256(person) for person in shot.people],
                [box for _, box in shot.together],
                shot.pose.astype(np.float32).tobytes() if with_identity and shot.pose is not None else None,
            ]
        )


def without_identity(shot: Shot) -> Shot:
    """The same prompt and seed, drawn by the base alone."""
    return replace(shot, identity=None, pose=None, together=())


@contextlib.contextmanager
def _silent(pipe: Any) -> Any:
    """Take the pipeline's own progress bar away for the time of a batch."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before
