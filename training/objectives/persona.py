"""Teach a base one person by a LoRA (arXiv:2106.09685), from a handful of photos.

DreamBooth (arXiv:2208.12242): the photos under a prompt with a word of their own, and pictures that the base
draws itself of the class, so that it forgets nobody else (prior preservation). Upon that one of the identity
losses: ``portrait``, ``triplet`` (ID-Booth, arXiv:2504.07392), or ``contrast`` to a bank of other people
(WithAnyone, arXiv:2510.14975), taken of the face in the decoded estimate of the clean picture. Where that
face is looked for says ``align``: ``target``, at the landmarks of the very photo that was made noisy, works
at every noise level and skips nothing; ``detect``, as published, finds it in the estimate, or has no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.images import open_photo
from idpersona.pixels import to_pictures, to_tensor
from idpersona.provenance import write_png
from idpersona.seams.checkpointing import checkpoint_blocks
from idpersona.training.data.persona import Portrait, find_points, photo_files, read_portraits
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import Denoised, denoise
from idpersona.training.objectives.face_reader import DLIB, FaceReader, contrast, portrait, triplet
from idpersona.training.objectives.latent_model import LatentModel
from idpersona.training.parts import TrainedParameters
from idpersona.training.peft_lora import add_lora, require_peft, save_lora
from idpersona.training.samples.drawing import Drawing

IdentityKind = Literal["none", "portrait", "triplet", "contrast"]
_BANK = 4096


class PersonaConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        base: name, folder or hub id.
        photos: folder or list of photos of one person.
        prompt, class_prompt: of the photos, and of the pictures that preserve the prior.
        size: side of the square pictures; None for what the base was made for.
        crop: ``face`` cuts faces out upright, as mini was trained on; ``middle`` takes the middle.
        rank, targets: of the LoRA, and the layers of the U-Net that it changes.
        class_pictures: that the base draws once, before the first step; 0 for no prior preservation.
        class_steps, class_guidance: that they are drawn with.
        prior: weight of their denoising error.
        identity: the identity loss; ``identity_weight`` is its weight.
        reader: network of the loss: dlib, or the file of an ArcFace network.
        align: see the module's docstring.
        margin: of ``triplet``; 1 as published.
        temperature: of ``contrast``.
        bank: folder of photos of others for ``triplet`` and ``contrast``; None takes the class pictures.
        decay: power of the weight (1 - t / T) of the identity loss at timestep t; 2 as published, 0 weighs
            all alike.
        min_snr: gamma of the denoising error's weight.
        noise_offset: see ``denoise``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["persona"]
    base: str
    photos: str | tuple[str, ...]
    prompt: str = "a photo of sks person"
    class_prompt: str = "a photo of a person"
    size: int | None = Field(None, ge=8)
    crop: Literal["face", "middle"] = "middle"
    rank: int = Field(4, ge=1)
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    class_pictures: int = Field(200, ge=0)
    class_steps: int = Field(30, ge=1)
    class_guidance: float = Field(5.0, ge=0)
    prior: float = Field(1.0, ge=0)
    identity: IdentityKind = "portrait"
    identity_weight: float = Field(0.1, ge=0)
    reader: str = DLIB
    align: Literal["target", "detect"] = "target"
    margin: float = Field(1.0, ge=0, le=2)
    temperature: float = Field(0.1, gt=0)
    bank: str | None = None
    decay: float = Field(2.0, ge=0)
    min_snr: float = Field(5.0, gt=0)
    noise_offset: float = Field(0.0, ge=0)


class PersonaObjective(Objective):
    """See the module's docstring. Half of every batch are class pictures where the prior is preserved."""

    writes_only = True

    def __init__(self, config: PersonaConfig, output: Path):
        require_peft()
        self.config, self.output = config, output
        if config.identity in ("triplet", "contrast") and not config.class_pictures and not config.bank:
            raise BadInput(
                f"objective.identity {config.identity} needs other people: class_pictures or a bank"
            )
        side = config.size
        self.model = LatentModel.open(config.base, None if side is None else (side, side))
        face = config.crop == "face"
        wanted = config.identity != "none"
        self.portraits = read_portraits(
            photo_files(config.photos), self.model.size, face=face, needed=wanted and config.align == "target"
        )
        self.reader = FaceReader.open(config.reader) if wanted else None
        if self.reader is not None:
            self.wanted = self._embed(self.portraits).mean(dim=0)
            self.wanted = self.wanted / self.wanted.norm()
        add_lora(self.model.unet, config.rank, config.targets)
        self.trained = TrainedParameters(self.model.unet)
        self._own = self._latents(self.portraits)

    def begin(self, folder: Path) -> None:
        self._draw_class()

    @cached_property
    def prior(self) -> list[Portrait]:
        """Pictures of the class, as the base drew them before the first step."""
        pictures = [open_photo(path) for path in self._class_files()]
        return [Portrait(picture, find_points(picture)) for picture in pictures]

    @cached_property
    def others(self) -> Tensor:
        """Unit embeddings of other people, float32 [N, D]."""
        people = self.prior
        if self.config.bank:
            files, face = photo_files(self.config.bank)[:_BANK], self.config.crop == "face"
            people = read_portraits(files, self.model.size, face=face, needed=False)
        if not any(person.keypoints is not None for person in people):
            raise BadInput(f"objective.identity {self.config.identity}: no face of anybody else was found")
        return self._embed(people)

    @cached_property
    def _class(self) -> Tensor:
        return self._latents(self.prior)

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        config, model = self.config, self.model.to(self._device)
        choices = [self._choose(key, index) for index in key.indices]
        steps = self.model.schedule.timesteps
        timesteps = torch.tensor([int(steps * place) for _, _, place in choices], device=self._device)
        own = torch.tensor([mine for mine, _, _ in choices], device=self._device)
        latents = torch.stack([(self._own if mine else self._class)[row] for mine, row, _ in choices])
        told = model.tell([config.prompt if mine else config.class_prompt for mine, _, _ in choices])
        step = denoise(
            lambda noisy, times: model.predict(noisy, times, told),
            latents.to(self._device),
            timesteps,
            key,
            model.schedule,
            noise_offset=config.noise_offset,
        )
        errors, weights = step.weighted(config.min_snr), torch.where(own, 1.0, config.prior)
        # Both halves count as a batch of their own, as published.
        share = 0.5 if self.prior else 1.0
        loss = (errors * weights).mean() / share
        figures = {"mse": float(errors[own].mean().detach())} if bool(own.any()) else {}
        if bool((~own).any()):
            figures["prior"] = float(errors[~own].mean().detach())
        if self.reader is not None and bool(own.any()):
            points = [self.portraits[row].keypoints for mine, row, _ in choices if mine]
            unlike = self._unlike(step, own, timesteps, points)
            loss = loss + config.identity_weight * unlike.sum() / len(choices) / share
            figures["unlike"] = float(unlike.mean().detach())
        return loss, figures

    def checkpoint_activations(self) -> None:
        checkpoint_blocks(self.model.unet)

    @contextmanager
    def drawing(self) -> Iterator[Drawing]:
        model = self.model.to(self._device)
        yield Drawing(model.pipe, photos=photo_files(self.config.photos), size=model.size)

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, which ``load_lora_weights`` reads."""
        save_lora(type(self.model.pipe), self.model.unet, folder)

    def export(self, folder: Path) -> None:
        """As :meth:`save`, in ``lora``."""
        self.save(folder / "lora")

    @property
    def _device(self) -> torch.device:
        return next(self.trained.parameters()).device

    def _choose(self, key: StepKey, index: int) -> tuple[bool, int, float]:
        """Whether a sample is of the person, which picture it is, and its place in 0..1 of the timesteps."""
        rng = key.rng(index)
        mine = not self.prior or index % 2 == 0
        row = int(rng.integers(len(self.portraits if mine else self.prior)))
        return mine, row, float(rng.random())

    def _unlike(self, step: Denoised, own: Tensor, timesteps: Tensor, points: list[Any]) -> Tensor:
        """The identity loss of the person's rows [n], 0 where no face is found."""
        assert self.reader is not None
        config = self.config
        pictures = self.model.decode(step.estimate()[own])
        if config.align == "detect":
            points = [find_points(picture) for picture in to_pictures(pictures.detach())]
        seen = [n for n, place in enumerate(points) if place is not None]
        unlike = pictures.new_zeros(len(points))
        if not seen:
            return unlike + 0 * pictures.sum()
        faces = self.reader(pictures[seen], np.stack([points[n] for n in seen]))
        wanted = self.wanted.to(faces).expand_as(faces)
        if config.identity == "portrait":
            terms = portrait(faces, wanted)
        elif config.identity == "triplet":
            terms = triplet(faces, wanted, self.others.to(faces).mean(dim=0).expand_as(faces), config.margin)
        else:
            terms = contrast(faces, wanted, self.others.to(faces), config.temperature)
        weight = (1 - timesteps[own][seen] / self.model.schedule.timesteps) ** config.decay
        return unlike.index_add(0, torch.tensor(seen, device=faces.device), weight.to(terms) * terms)

    def _class_files(self) -> list[Path]:
        return [self.output / "class" / f"{n:04d}.png" for n in range(self.config.class_pictures)]

    def _draw_class(self) -> None:
        """Draw the pictures that are not there yet, with the base: a LoRA adds nothing yet."""
        config, (width, height) = self.config, self.model.size
        for n, path in enumerate(self._class_files()):
            if path.is_file():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn: Any = self.model.pipe(
                config.class_prompt,
                num_inference_steps=config.class_steps,
                guidance_scale=config.class_guidance,
                width=width,
                height=height,
                generator=torch.Generator().manual_seed(n),
            )
            about = {"prompt": config.class_prompt, "seed": n}
            write_png(drawn.images[0].convert("RGB"), path, about, force=True)

    @torch.no_grad()
    def _embed(self, people: list[Portrait]) -> Tensor:
        assert self.reader is not None
        known = [person for person in people if person.keypoints is not None]
        if not known:
            raise BadInput("no face is found in any of the photos: give sharper ones")
        pictures = to_tensor([np.asarray(person.picture) for person in known])
        return self.reader(pictures, np.stack([p.keypoints for p in known]))  # type: ignore[arg-type]

    def _latents(self, people: list[Portrait]) -> Tensor:
        if not people:
            return torch.zeros(0)
        rows = [self.model.encode(to_tensor([np.asarray(p.picture.convert("RGB"))])) for p in people]
        return torch.cat(rows)
