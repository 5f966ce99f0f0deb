"""Ways to edit photos, and the edits themselves: kept on disk, so that a run can go on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.adapters import load_adapter
from idpersona.encoders.describe import describe, turn
from idpersona.eval.kept import KeptPictures
from idpersona.eval.progress import track
from idpersona.eval.sitters import Sitter
from idpersona.eval.weights import modules_sha256, pipe_sha256, recipe_sha256, text_sha256
from idpersona.images import photo_sha256
from idpersona.pipelines import Control, invert
from idpersona.pipelines.editing.retouch import retouch
from idpersona.pipelines.editing.spec import ADAPTER_SCALE
from idpersona.pipelines.inversion.methods import METHODS
from idpersona.provenance import COMPOSITE_TYPE


@dataclass(frozen=True)
class Way:
    """One way to edit.

    Attributes:
        method: an inversion, with its ``options``.
        control: what is taken over of the photo; None for nothing.
        guidance: of the edit; None for the inversion's.
        against_source: whether guidance leads away from what the photo shows where the inversion leaves that
            free; otherwise from nothing, as published.
        detail: whether what the autoencoder lost is given back (:func:`~idpersona.pipelines.editing.detail`).
        adapter, scale: that keeps the person; the identity is read from the photo.
    """

    name: str
    method: str = "direct"
    control: Control | None = Control()  # noqa: RUF009 - frozen
    guidance: float | None = None
    against_source: bool = False
    detail: bool = True
    options: Mapping[str, Any] | None = None
    adapter: str | None = None
    scale: float = ADAPTER_SCALE


class Retoucher:
    """A base and what all edits of a run have in common.

    Args:
        pipe: a stock diffusers pipeline (``load_base``).
        ways: that will be asked for; their adapters are loaded now.
        attributes: turned round in the words, one edit each.
        steps: of every inversion.
        guidance: that photos are inverted for.
        batch: photos that are inverted and edited at once.
        pictures: folder of finished edits; None keeps none.

    Raises:
        UnknownName, MissingWeights, BadInput: as ``load_adapter``.
    """

    def __init__(
        self,
        pipe: Any,
        ways: Sequence[Way],
        attributes: Sequence[str],
        *,
        steps: int,
        guidance: float,
        batch: int = 8,
        pictures: Path | None = None,
        quiet: bool = False,
    ):
        self.pipe, self.attributes, self.batch, self.quiet = pipe, tuple(attributes), batch, quiet
        self.settings: dict[str, Any] = {"steps": steps, "guidance": guidance}
        self.adapters = {
            name: load_adapter(name, base=pipe) for name in dict.fromkeys(way.adapter for way in ways) if name
        }
        self.adapters_sha256 = {name: modules_sha256(a.parts) for name, a in self.adapters.items()}
        self.base_sha256, self._recipe = pipe_sha256(pipe), recipe_sha256(pipe)
        self.kept = KeptPictures(pictures, COMPOSITE_TYPE)
        self.drawn = 0
        """Edits made by this object, those found in the folder not counted."""

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of what draws, for the report."""
        return {"base": self.base_sha256, **{f"adapter:{n}": s for n, s in self.adapters_sha256.items()}}

    def draw(self, way: Way, people: Sequence[Sitter]) -> tuple[list[list[Image.Image]], float | None]:
        """Each person's edits, one for each attribute; and seconds for one photo, None where all were there.

        Raises:
            BadInput: the base, or a photo, does not take the way. What was finished before is kept.
        """
        found = [self._find(way, person) for person in people]
        missing = [n for n, edits in enumerate(found) if len(edits) < len(self.attributes)]
        chunks = [missing[n : n + self.batch] for n in range(0, len(missing), self.batch)]
        started = time.perf_counter()
        for chunk in track(chunks, way.name, total=len(chunks), quiet=self.quiet):
            for n, edits in zip(chunk, self._edits([people[n] for n in chunk], way), strict=True):
                found[n] = edits
                self.drawn += len(edits)
                for attribute, picture in zip(self.attributes, edits, strict=True):
                    self.kept.keep(
                        picture, *self._key(way, people[n], attribute), prompt=_words(people[n], attribute)
                    )
        seconds = (time.perf_counter() - started) / len(missing) if missing else None
        return found, seconds

    def _find(self, way: Way, person: Sitter) -> list[Image.Image]:
        known = [self.kept.find(*self._key(way, person, attribute)) for attribute in self.attributes]
        return [picture for picture in known if picture is not None]

    def _key(self, way: Way, person: Sitter, attribute: str) -> tuple[str, str]:
        """What the edit is kept by, and its name in the folder."""
        adapter = self.adapters[way.adapter] if way.adapter else None
        read = (
            None
            if adapter is None
            else (self.adapters_sha256[way.adapter or ""], adapter.config, photo_sha256(person.photo.image))
        )
        key = text_sha256(
            [
                self.base_sha256,
                self._recipe,
                replace(way, name=""),
                sorted(self.settings.items()),
                read,
                photo_sha256(person.picture),
                person.keypoints.tolist(),
                person.source,
                _words(person, attribute),
            ]
        )
        return key, f"{way.name} {Path(person.photo.file).stem} {attribute}"

    def _edits(self, people: Sequence[Sitter], way: Way) -> list[list[Image.Image]]:
        """Each person's edits from one inversion; several people at once."""
        edits: list[list[Image.Image]] = [[] for _ in people]
        pictures = [person.picture for person in people]
        with self._kept_people(people, way):
            record = invert(
                self.pipe,
                pictures,
                [person.source for person in people],
                method=way.method,
                size=pictures[0].size,
                **self.settings,
                **(way.options or {}),
            )
            for attribute in self.attributes:
                finished = retouch(
                    self.pipe,
                    record,
                    pictures,
                    [_words(person, attribute) for person in people],
                    control=way.control if METHODS[way.method].takes_control else None,
                    guidance=way.guidance,
                    negative="" if METHODS[way.method].free_negative and not way.against_source else None,
                    detail=way.detail,
                )
                for mine, image in zip(edits, finished, strict=True):
                    mine.append(image)
        return edits

    def _kept_people(self, people: Sequence[Sitter], way: Way) -> AbstractContextManager[Any]:
        """The adapter in the pipeline: who they are, of the whole photos; faces as in the pictures."""
        if not way.adapter:
            return nullcontext()
        adapter = self.adapters[way.adapter]
        identities = [adapter.read([person.photo.image]) for person in people]
        poses = np.stack([person.keypoints for person in people]) if adapter.holds_pose else None
        return adapter.attach(self.pipe, identities, scale=way.scale, pose=poses)


def _words(person: Sitter, attribute: str) -> str:
    """What the edit is to show."""
    return describe(turn(person.attributes, attribute)[0])
