"""Teach a base one person by a LoRA (arXiv:2106.09685), from a handful of photos.

DreamBooth (arXiv:2208.12242): the photos under a prompt with a word of their own, and pictures that the base
draws itself of the class, so that it forgets nobody else (prior preservation). Upon that one of the identity
losses: ``portrait``, ``triplet`` (ID-Booth, arXiv:2504.07392), or ``contrast`` to a bank of other people
(WithAnyone, arXiv:2510.14975), taken of the face in the decoded estimate of the clean picture. Where that
face is looked for says ``align``: ``target``, at the landmarks of the very photo that was made noisy, works
at every noise level and skips nothing; ``detect``, as published, finds it in the estimate, or has no loss.

``reward`` adds reward feedback (``feedback.py``) on what the prompt draws from noise, the person being the
mean of all photos (ID-Aligner for LoRAs, arXiv:2404.15449); ``disenbooth`` keeps the surroundings of each
photo out of the prompt's words (``disenbooth.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from idpersona.errors import BadInput, NoFaceFound
from idpersona.images import open_photo
from idpersona.pixels import to_tensor
from idpersona.seams.checkpointing import checkpoint_blocks
from idpersona.seams.latent import Told
from idpersona.training.data.persona import Portrait, find_points, photo_files, read_portraits
from idpersona.training.data.prior import Drawn, Prior
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import Denoised, Predict, denoise
from idpersona.training.objectives.disenbooth import ImageAdapter, embed_pictures, overlap
from idpersona.training.objectives.face_reader import FaceReader, contrast, find_faces, portrait, triplet
from idpersona.training.objectives.feedback import Feedback, FeedbackConfig, look_keys
from idpersona.training.objectives.latent_model import LatentModel
from idpersona.training.objectives.persona_config import PersonaConfig
from idpersona.training.objectives.stopping import Stopping
from idpersona.training.parts import TrainedParameters
from idpersona.training.peft_lora import add_lora, require_peft, save_lora
from idpersona.training.samples.drawing import Drawing

_BANK = 4096


@dataclass(frozen=True)
class _Samples:
    """What is denoised in a step: latents [B, C, h, w] at timesteps int64 [B], and what the rows are told."""

    latents: Tensor
    timesteps: Tensor
    told: Told
    key: StepKey

    def telling(self, text: Tensor) -> _Samples:
        """The same, told ``text``."""
        return replace(self, told=Told(text, self.told.pooled))

    def where(self, rows: Tensor) -> _Samples:
        """Some of them, bool [B]."""
        pooled = None if self.told.pooled is None else self.told.pooled[rows]
        kept = [index for index, keep in zip(self.key.indices, rows.tolist(), strict=True) if keep]
        return _Samples(
            latents=self.latents[rows],
            timesteps=self.timesteps[rows],
            told=Told(self.told.text[rows], pooled),
            key=replace(self.key, indices=kept),
        )


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
        drawn = Drawn(
            config.base, config.class_prompt, config.class_steps, config.class_guidance, self.model.size
        )
        folder = output / "class" if config.class_folder is None else Path(config.class_folder)
        self.class_pictures = Prior(folder, drawn, config.class_pictures)
        self.class_pictures.check()
        face = config.crop == "face"
        wanted = config.identity != "none"
        self.portraits = read_portraits(
            photo_files(config.photos), self.model.size, face=face, needed=wanted and config.align == "target"
        )
        self.reader = FaceReader.open(config.reader) if wanted else None
        self._bank: Tensor | None = None
        if self.reader is not None:
            self.wanted = self._person(self.reader)
            if config.bank and config.identity in ("triplet", "contrast"):
                self._bank = self._read_bank(config.bank)
        add_lora(self.model.unet, config.rank, config.targets)
        self.image_adapter: Any = None
        if config.disenbooth is not None:
            self._shown = embed_pictures(config.disenbooth.encoder, [p.picture for p in self.portraits])
            width = self.model.tell([config.prompt]).text.shape[-1]
            self.image_adapter = ImageAdapter(self._shown.shape[1], width, config.disenbooth.encoder)
        parts: Any = self.model.unet
        if self.image_adapter is not None:
            parts = nn.ModuleDict({"unet": self.model.unet, "image_adapter": self.image_adapter})
        self.trained = TrainedParameters(parts)
        self._own = self._latents(self.portraits)
        self.feedback: Feedback | None = None
        self.stopping: Stopping | None = None
        if config.reward is not None:
            self._begin_feedback(config.reward)

    def _begin_feedback(self, config: FeedbackConfig) -> None:
        model = self.model
        self.feedback = Feedback(config, model.decode, model.shape, model.schedule, self.trained)
        self.rewarded = self._person(self.feedback.reader)
        if config.stop_on is not None and self.feedback.witness is not None:
            self.check_every = config.stop_every
            self.stopping = Stopping(config.stop_on, self.trained, config.patience)
            self.known = self._person(self.feedback.witness)

    def begin(self, folder: Path) -> None:
        self.model.to(self._device)
        self.class_pictures.draw(self.model.pipe)

    @cached_property
    def prior(self) -> list[Portrait]:
        """Pictures of the class, as the base drew them before the first step."""
        pictures = [open_photo(path) for path in self.class_pictures.files]
        return [Portrait(picture, find_points(picture)) for picture in pictures]

    @cached_property
    def others(self) -> Tensor:
        """Unit embeddings of other people, float32 [N, D]."""
        if self._bank is not None:
            return self._bank
        if not any(person.keypoints is not None for person in self.prior):
            raise BadInput(f"objective.identity {self.config.identity}: no face of anybody else was found")
        assert self.reader is not None
        return self._embed(self.reader, self.prior)

    def _read_bank(self, folder: str) -> Tensor:
        """Photo by photo, as there are thousands; those without a face are left out."""
        assert self.reader is not None
        if not Path(folder).is_dir():
            raise BadInput(f"objective.bank: {folder} is no folder of photos")
        face, found = self.config.crop == "face", list[Tensor]()
        for file in photo_files(folder)[:_BANK]:
            try:
                people = read_portraits([file], self.model.size, face=face, needed=False)
            except NoFaceFound:
                continue
            if people[0].keypoints is not None:
                found.append(self._embed(self.reader, people))
        if not found:
            raise BadInput(f"objective.bank: no face is found in the photos of {folder}")
        return torch.cat(found)

    @cached_property
    def _class(self) -> Tensor:
        return self._latents(self.prior)

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        config = self.config
        self.model.to(self._device)
        choices = [self._choose(key, index) for index in key.indices]
        rows = self._samples(key, choices)
        own = torch.tensor([mine for mine, _, _ in choices], device=self._device)
        photos = [row for mine, row, _ in choices if mine]
        added = self._surroundings(own, photos)
        step = self._denoise(rows if added is None else rows.telling(rows.told.text + added))
        errors, weights = step.weighted(config.min_snr), torch.where(own, 1.0, config.prior)
        # Both halves count as a batch of their own, as published.
        share = 0.5 if self.prior else 1.0
        loss = (errors * weights).mean() / share
        figures = {"mse": float(errors[own].mean().detach())} if photos else {}
        if len(photos) < len(choices):
            figures["prior"] = float(errors[~own].mean().detach())
        for name, (weight, term) in self._terms(step, rows, own, photos, added).items():
            loss = loss + weight * term * len(photos) / len(choices) / share
            figures[name] = float(term.detach())
        if self.feedback is not None and photos:
            alone = rows.where(own)
            people = self.rewarded.to(self._device).expand(len(photos), -1)
            texts = [config.prompt] * len(photos)
            rewarded, found = self.feedback.loss(
                lambda: self._predictor(alone.told), people, texts, None, alone.key
            )
            loss = loss + rewarded * len(photos) / len(choices) / share
            figures |= found
        return loss, figures

    def checkpoint_activations(self) -> None:
        checkpoint_blocks(self.model.unet)

    @contextmanager
    def drawing(self) -> Iterator[Drawing]:
        model = self.model.to(self._device)
        yield Drawing(model.pipe, photos=photo_files(self.config.photos), size=model.size)

    def _terms(
        self, step: Denoised, rows: _Samples, own: Tensor, photos: list[int], added: Tensor | None
    ) -> dict[str, tuple[float, Tensor]]:
        """Further losses of the person's rows, means over them: name -> weight and value."""
        config, terms = self.config, dict[str, tuple[float, Tensor]]()
        if not photos:
            return terms
        estimate = step.estimate()[own]
        if added is not None and config.disenbooth is not None:
            alone = self._denoise(rows.where(own))
            estimate, apart = alone.estimate(), config.disenbooth
            terms["weak"] = apart.weak, alone.loss(config.min_snr)
            alike = overlap(rows.told.text[own], added[own], squared=apart.squared)
            terms["contrast"] = apart.contrast, alike.mean()
        if self.reader is not None:
            points = [self.portraits[row].keypoints for row in photos]
            unlike = self._unlike(estimate, rows.timesteps[own], points)
            terms["unlike"] = config.identity_weight, unlike.mean()
        return terms

    def enough(self, step: int) -> bool:
        return self.stopping is not None and self.stopping.enough(step, self.score)

    def score(self) -> float:
        """How alike the person is in what ``prompt`` draws, by ``reward.stop_on``: a mean of cosines, those
        of pictures without a face being 0."""
        assert self.feedback is not None
        count = self.feedback.config.stop_pictures
        model, known, total = self.model.to(self._device), self.known.to(self._device), 0.0
        for key in look_keys(count):
            told = model.tell([self.config.prompt] * len(key.indices))
            people = known.expand(len(key.indices), -1)
            total += float((self._look(told, people, key) * people).sum())
        return total / count

    def _look(self, told: Told, people: Tensor, key: StepKey) -> Tensor:
        assert self.feedback is not None
        return self.feedback.look(lambda: self._predictor(told), people, None, key)

    def resumed(self, checkpoint: Path) -> None:
        if self.stopping is not None:
            self.stopping.load(checkpoint)

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, which ``load_lora_weights`` reads; beside it the image
        adapter, and what is known of the score."""
        self._write(folder, folder)
        if self.stopping is not None:
            self.stopping.save(folder)

    def export(self, folder: Path) -> None:
        """The LoRA in ``lora``, the image adapter beside it; with ``reward.stop_on`` by the best weights."""
        if self.stopping is not None:
            self.stopping.put_best()
            self.stopping.write_scores(folder)
        self._write(folder / "lora", folder)

    def _write(self, lora: Path, beside: Path) -> None:
        save_lora(type(self.model.pipe), self.model.unet, lora)
        if self.image_adapter is not None:
            self.image_adapter.save_pretrained(beside / "image_adapter")

    @property
    def _device(self) -> torch.device:
        return next(self.trained.parameters()).device

    def _choose(self, key: StepKey, index: int) -> tuple[bool, int, float]:
        """Whether a sample is of the person, which picture it is, and its place in 0..1 of the timesteps."""
        rng = key.rng(index)
        # Counted through the steps, so that both come in turn in batches of one as well.
        mine = not self.prior or (key.step * key.total + index) % 2 == 0
        row = int(rng.integers(len(self.portraits if mine else self.prior)))
        return mine, row, float(rng.random())

    def _samples(self, key: StepKey, choices: Sequence[tuple[bool, int, float]]) -> _Samples:
        """The chosen pictures, told their prompts alone."""
        config, device = self.config, self._device
        steps = self.model.schedule.timesteps
        latents = torch.stack([(self._own if mine else self._class)[row] for mine, row, _ in choices])
        return _Samples(
            latents=latents.to(device),
            timesteps=torch.tensor([int(steps * place) for _, _, place in choices], device=device),
            told=self.model.tell([config.prompt if mine else config.class_prompt for mine, _, _ in choices]),
            key=key,
        )

    def _predictor(self, told: Told) -> Predict:
        return lambda noisy, timesteps: self.model.predict(noisy, timesteps, told)

    def _denoise(self, rows: _Samples) -> Denoised:
        return denoise(
            self._predictor(rows.told),
            rows.latents,
            rows.timesteps,
            rows.key,
            self.model.schedule,
            noise_offset=self.config.noise_offset,
        )

    def _surroundings(self, own: Tensor, photos: list[int]) -> Tensor | None:
        """What is added to the prompts' tokens, [B, 1, d], for the ``photos`` of the ``own`` rows; zeros for
        class pictures. None without DisenBooth."""
        if self.image_adapter is None:
            return None
        added = self.image_adapter(self._shown[photos].to(own.device)).float()
        places = torch.nonzero(own)[:, 0]
        return added.new_zeros(len(own), *added.shape[1:]).index_add(0, places, added)

    def _unlike(self, estimate: Tensor, timesteps: Tensor, points: list[Any]) -> Tensor:
        """The identity loss of the person's rows [n], 0 where no face is found."""
        assert self.reader is not None
        config = self.config
        pictures = self.model.decode(estimate)
        if config.align == "detect":
            points = find_faces(pictures)
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
        weight = (1 - timesteps[seen] / self.model.schedule.timesteps) ** config.decay
        return unlike.index_add(0, torch.tensor(seen, device=faces.device), weight.to(terms) * terms)

    def _person(self, reader: FaceReader) -> Tensor:
        """The mean of the photos' embeddings, a unit vector [D]."""
        mean = self._embed(reader, self.portraits).mean(dim=0)
        return mean / mean.norm()

    @torch.no_grad()
    def _embed(self, reader: FaceReader, people: list[Portrait]) -> Tensor:
        known = [person for person in people if person.keypoints is not None]
        if not known:
            raise BadInput("no face is found in any of the photos: give sharper ones")
        pictures = to_tensor([np.asarray(person.picture) for person in known])
        points = np.stack([p.keypoints for p in known])  # type: ignore[arg-type]
        # Some at a time: a handful of photos, or a hundred large pictures of the class.
        rows = [
            reader(pictures[n : n + 8].to(self.model.unet.device), points[n : n + 8])
            for n in range(0, len(known), 8)
        ]
        return torch.cat(rows).cpu()

    def _latents(self, people: list[Portrait]) -> Tensor:
        if not people:
            return torch.zeros(0)
        rows = [self.model.encode(to_tensor([np.asarray(p.picture.convert("RGB"))])) for p in people]
        return torch.cat(rows).cpu()
