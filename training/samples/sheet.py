"""Pictures drawn while a training runs: a sheet of them every so many steps, scored."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from idpersona.errors import BadInput
from idpersona.pipelines.base import native_size
from idpersona.provenance import COMPOSITE_TYPE, SOURCE_TYPE, read_settings, write_png
from idpersona.sheets import contact_sheet
from idpersona.training.config import Recipe, SamplesConfig
from idpersona.training.data.persona import photo_files
from idpersona.training.samples.drawing import Drawing, Draws, undisturbed
from idpersona.training.samples.judging import Witness
from idpersona.training.samples.people import Person, read_learnt, read_people
from idpersona.training.samples.scores import Score, means, score, scored_steps, write_scores

_CELL = 512
"""Pictures larger than so many pixels are shown smaller."""
_PROOF_STEPS = 2
_TRACKED: dict[str, dict[str, Any]] = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
"""Trackers that take pictures, and what they have to be told of them."""

Row = tuple[Person | None, int]
Stop = Callable[[], bool]


class _Abandoned(Exception):
    """Drawing was stopped."""


class Samples:
    """The samples of a run; see :class:`~idpersona.training.config.SamplesConfig`.

    Everything that can be wrong with them is found before the first step: people are read when this is made,
    and the first call of :meth:`draw` draws, if only to throw it away.

    Args:
        recipe: with a table ``samples``.
        objective: what is trained.
        accelerator: of the main process, on whose device the objective is.

    Raises:
        BadInput: the objective draws no pictures, or the photos do not suit it.
        NoFaceFound, PhotoError: a photo shows no face, or cannot be read.
        UnknownName, MissingWeights: there is no such judge, or it is not on this machine.
    """

    def __init__(self, recipe: Recipe, config: SamplesConfig, objective: Draws, accelerator: Accelerator):
        self.config, self.objective, self.accelerator = config, objective, accelerator
        self.name, self.last = recipe.name, recipe.loop.steps
        self.folder = Path(recipe.output) / "samples"
        self._proved = False
        photos = photo_files(config.photos) if config.photos else []
        with undisturbed(accelerator.device), objective.drawing() as drawing:
            self.witness = Witness(config.judge)
            if drawing.adapter is None and photos and not drawing.photos:
                raise BadInput(
                    "samples.photos: what is trained here draws nobody in particular: leave it out"
                )
            if drawing.adapter is not None and not photos:
                raise BadInput("samples.photos: the adapter needs people to draw: give photos")
            self.people = read_people(photos, self.witness, drawing.read)
            self.learnt = read_learnt(drawing.photos, self.witness)
            drawn: list[Person | None] = []
            if drawing.adapter is None or drawing.alone:
                drawn.append(self.learnt)
            if drawing.adapter is not None:
                drawn += self.people
            self.rows: list[Row] = [(person, seed) for person in drawn for seed in config.seeds]
            self.size = drawing.size or native_size(drawing.pipe)
            told = drawing.adapter.encoders if drawing.adapter else ()
        if config.judge in told:
            print(
                f"{self.name}: {config.judge} judges the samples, and tells the adapter of people, too: its "
                "scores are optimistic",
                file=sys.stderr,
            )

    @classmethod
    def open(cls, recipe: Recipe, objective: Draws, accelerator: Accelerator) -> Samples | None:
        """The samples of ``recipe``; None where it wants none, and in all processes but the main one."""
        if recipe.samples is None or not accelerator.is_main_process:
            return None
        return cls(recipe, recipe.samples, objective, accelerator)

    def wanted(self, step: int) -> bool:
        """Whether there is something to do now that ``step`` steps are taken."""
        return self._due(step) or not self._proved

    def _due(self, step: int) -> bool:
        return step % self.config.every == 0 or step == self.last

    def draw(self, step: int, *, stop: Stop, say: Callable[[str], None]) -> None:
        """Draw, score, write and log the sheet of ``step``, unless it lies there already.

        The objective's model holds the averaged weights, in evaluation mode. Where ``stop`` answers True,
        drawing ends soon, and nothing of the sheet is kept.

        Raises:
            IdPersonaError: the pipeline refuses to draw this.
            OutputError: the sheet cannot be written.
        """
        with undisturbed(self.accelerator.device), self.objective.drawing() as drawing:
            try:
                if not self._due(step):
                    self._prove(drawing, stop)
                elif not self._is_there(step, about := self._about(step)):
                    self._keep(
                        step, about, list(self._pictures(drawing, self.rows, self.config.steps, stop)), say
                    )
            except _Abandoned:
                return
        self._proved = True

    def _prove(self, drawing: Drawing, stop: Stop) -> None:
        """Draw every prompt hastily, so that what cannot be drawn is known before it is due."""
        for _ in self._pictures(drawing, self.rows[:1], min(self.config.steps, _PROOF_STEPS), stop):
            pass

    def _pictures(
        self, drawing: Drawing, rows: Sequence[Row], steps: int, stop: Stop
    ) -> Iterator[list[Image.Image]]:
        """The pictures of each row, one for each prompt."""

        def at_step(_pipe: Any, _number: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if stop():
                raise _Abandoned
            return values

        config = self.config
        for person, seed in rows:
            told = None if person is None else person.identity
            adapter = drawing.adapter
            scope = nullcontext() if adapter is None or told is None else adapter.attach(drawing.pipe, told)
            with scope:
                # One at a time: no picture depends on the others, and training leaves little memory.
                drawn = [
                    drawing.pipe(
                        prompt,
                        negative_prompt=config.negative or None,
                        num_inference_steps=steps,
                        guidance_scale=config.guidance,
                        width=self.size[0],
                        height=self.size[1],
                        generator=torch.Generator().manual_seed(seed),
                        callback_on_step_end=at_step,
                    )
                    .images[0]
                    .convert("RGB")
                    for prompt in config.prompts
                ]
            yield drawn

    def _keep(
        self,
        step: int,
        about: dict[str, Any],
        pictures: Sequence[Sequence[Image.Image]],
        say: Callable[[str], None],
    ) -> None:
        scores = [
            one for row, drawn in zip(self.rows, pictures, strict=True) for one in self._score(row, drawn)
        ]
        figures = means(scores)
        sheet = self._sheet(pictures)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_scores(self.folder / "scores.csv", step, scores, self.witness)
        # The sheet comes last: where it is, all of the step is there.
        kind = COMPOSITE_TYPE if any(person for person, _ in self.rows) else SOURCE_TYPE
        write_png(sheet, self._file(step), about | {"scores": figures}, force=True, source_type=kind)
        for tracker in self.accelerator.trackers:
            if tracker.name in _TRACKED:
                image = np.asarray(sheet)[None]
                tracker.log_images({"samples": image}, step=step, **_TRACKED[tracker.name])
        self.accelerator.log(figures, step=step)
        told = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
        judge = f"{self.witness.name}, {self.witness.measure}"
        say(f"{self.name} samples of step {step}: {told} ({judge}) {self._file(step)}")

    def _score(self, row: Row, pictures: Sequence[Image.Image]) -> Iterator[Score]:
        person, seed = row
        for prompt, picture in zip(self.config.prompts, pictures, strict=True):
            found = self.witness.look(picture)
            seen = None if found is None else found[1]
            yield score(seen, person, self.people, self.witness, prompt=prompt, seed=seed)

    def _sheet(self, pictures: Sequence[Sequence[Image.Image]]) -> Image.Image:
        """Rows are people and seeds, columns prompts; in the first column stands the photo."""
        photos = any(person for person, _ in self.rows)
        rows: list[list[Image.Image | None]] = []
        for (person, _), drawn in zip(self.rows, pictures, strict=True):
            rows.append([*([person.face if person else None] if photos else []), *drawn])
        several = len(self.config.seeds) > 1
        names = [
            " ".join([*([person.name] if person else []), *([f"seed {seed}"] if several else [])])
            for person, seed in self.rows
        ]
        columns = [*(["photo"] if photos else []), *_headings(self.config.prompts)]
        return contact_sheet(
            rows, columns=columns, names=names if any(names) else (), cell=min(max(self.size), _CELL)
        )

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.png"

    def _about(self, step: int) -> dict[str, Any]:
        """All that the pictures of a step depend on."""
        config = self.config
        people = [*self.people, *([self.learnt] if self.learnt else [])]
        return {
            "run": self.name,
            "step": step,
            "weights_sha256": _weights_sha256(self.objective.trained),
            "people": [[person.name, person.sha256] for person in people],
            "prompts": list(config.prompts),
            "negative": config.negative,
            "seeds": list(config.seeds),
            "size": list(self.size),
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance,
            "judge": [self.witness.name, self.witness.measure, self.witness.weights_sha256],
        }

    def _is_there(self, step: int, about: dict[str, Any]) -> bool:
        """Whether the sheet was drawn by these very weights with these settings, and its scores are kept."""
        try:
            found = read_settings(self._file(step))
        except BadInput:  # not there, or damaged
            return False
        same = {name: found.get(name) for name in about} == json.loads(json.dumps(about))
        return same and step in scored_steps(self.folder / "scores.csv")


def _headings(prompts: Sequence[str]) -> list[str]:
    """What the prompts differ in: the words that all of them begin with are left out."""
    if len(prompts) == 1:
        return list(prompts)
    common = commonprefix(list(prompts))  # noqa: RUF071 - of texts, not of paths
    start = common.rfind(" ") + 1
    return [prompt[start:] or prompt for prompt in prompts]


def _weights_sha256(module: nn.Module) -> str:
    """Of the trained parameters as they are now."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
