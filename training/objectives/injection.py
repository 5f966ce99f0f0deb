"""Train an adapter on a base that stays as it is: what all such objectives share.

A sample is a photo made noisy and one or more reference photos of the same person, mostly others than it, so
that copying a reference cannot pay alone. Beside the denoising error there is the identity loss of
``diffusion.py`` on estimated clean latents, of the photo and of what the model begins from pure noise itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idpersona.adapters.base import Adapter
from idpersona.adapters.loading import load_as_stored
from idpersona.encoders import get_encoder
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.images import Photo
from idpersona.seams.checkpointing import checkpoint_blocks
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import Denoised, Predict, denoise, draw
from idpersona.training.objectives.injection_data import (
    FaceInjection,
    InjectionBatch,
    InjectionConfig,
    InjectionData,
)
from idpersona.training.objectives.latent_model import LatentModel, require_small
from idpersona.training.objectives.likeness import FaceLikeness, IdentityLoss, Likeness, shaken
from idpersona.training.samples.drawing import Drawing


class InjectionObjective(Objective):
    """See the module's docstring. A method says what it is conditioned on and how that enters the U-Net."""

    adapter: Adapter
    writes_only = True
    folder: str
    """Name of the adapter's folder in the output."""

    places_faces: bool = False
    """The model is told where the face is, so that what it draws has it there."""

    def __init__(self, config: InjectionConfig):
        self.config = config
        self.model = self.open()
        self.unet, self.kernel = self.model.unet, self.model.kernel
        self.data = self.samples()
        self.likeness: IdentityLoss | None = None
        if config.latent_descriptor:
            self.likeness = Likeness(config.latent_descriptor, self.data.descriptors)
        elif config.face_descriptor:
            if config.drawn and not self.places_faces:
                raise BadInput(
                    "objective.drawn: this method does not say where a face is drawn, and face_descriptor "
                    "has to know: set drawn to 0, or name a latent_descriptor"
                )
            self.likeness = FaceLikeness(self.model)

    def open(self) -> LatentModel:
        """The base."""
        return LatentModel.open(self.config.base)

    def samples(self) -> InjectionData:
        """What it is trained on."""
        require_small(self.model)
        return FaceInjection(self.config, self.model.schedule.timesteps)

    def hold(self, adapter: Adapter) -> None:
        """Take over the adapter that is trained; called at the end of a method's ``__init__``."""
        self.adapter = adapter
        self.trained = nn.ModuleDict(adapter.parts)

    @abstractmethod
    def conditions(self, batch: InjectionBatch) -> Tensor:
        """What the model is told of each row's person, [B, n, D]."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Any, people: Tensor) -> Tensor:
        """What the model predicts, float32 [B, C, h, w], for captions and people as :meth:`encode` and
        :meth:`conditions` give them."""

    def checkpoint_activations(self) -> None:
        checkpoint_blocks(self.unet)
        for part in self.adapter.parts.values():
            if getattr(part, "_supports_gradient_checkpointing", False):
                checkpoint_blocks(part)

    def captions(self, batch: InjectionBatch) -> Sequence[str]:
        """What the rows are told in words."""
        return batch.texts

    def further(self, batch: InjectionBatch, step: Denoised, text: Any) -> Mapping[str, Tensor]:
        """A method's own losses by name, weighted; ``step`` is the prediction for ``text``, the captions."""
        return {}

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        batch = self.data.batch(key).to(self.device)
        latents = self.model.encode(batch.pictures)
        text = self.encode(batch)
        schedule = self.model.schedule
        step = denoise(self.predictor(batch, text), latents, batch.timesteps, batch.key, schedule)
        loss = self.config.denoising * step.loss(self.config.min_snr)
        figures = {"mse": float(step.error().mean().detach())}
        for name, term in self.further(batch, step, text).items():
            figures[name] = float(term.detach())
            loss = loss + term
        for name, share, unlike in self._unlike(batch, latents, step):
            figures[name] = float(unlike.detach())
            loss = loss + self.config.likeness * share * unlike
        return loss, figures

    @property
    def networks(self) -> Mapping[str, Mapping[str, Any]]:
        """Options of the adapter's encoders by name, where training has other networks than users have."""
        return {}

    def read(self, photo: Photo) -> Identity:
        """The identity in a photo, by the very networks that training looks through."""
        encoders = [get_encoder(name, **self.networks.get(name, {})) for name in self.adapter.encoders]
        return self.adapter.read(photo, encoder=encoders)

    @contextmanager
    def drawing(self) -> Iterator[Drawing]:
        model = self.model.to(self.device)
        with model.drawing():
            yield Drawing(model.pipe, self.adapter, self.read)

    @property
    def device(self) -> torch.device:
        """Where the adapter is trained; the frozen models follow it."""
        self.model.to(self.adapter.device)
        return self.adapter.device

    def _unlike(self, batch: InjectionBatch, latents: Tensor, step: Any) -> list[tuple[str, float, Tensor]]:
        """Terms of the identity loss: name, share of the batch that it is the mean of, and its value."""
        if self.likeness is None or not self.config.likeness:
            return []
        known = step.signal() * batch.somebody.float()
        points = shaken(batch.points, batch.key, self.config.shake)
        terms = [("unlike", 1.0, self.likeness.to_photos(step.estimate(), latents, known, points))]
        if self.config.drawn and batch.key.step >= self.config.drawn_from:
            part = batch.of_share(self.config.drawn)
            if not len(part.texts):
                return terms
            predict = self.predictor(part, self.encode(part))
            own = draw(predict, self.model.shape, part.key, latents.device, self.model.schedule)
            wanted = part.descriptors * part.somebody[:, None]
            points = shaken(part.points, part.key, self.config.shake)
            unlike = self.likeness.to_descriptors(own.estimate(), wanted, own.signal(), points)
            terms.append(("unlike_drawn", len(part.texts) / len(latents), unlike))
        return terms

    def encode(self, batch: InjectionBatch) -> Any:
        """What :meth:`predict` gets as ``text``: encoded captions (``Told``), perhaps with more beside."""
        return self.model.tell(self.captions(batch))

    def predictor(self, batch: InjectionBatch, text: Any) -> Predict:
        """The model as a function of noisy latents and timesteps.

        What it is told is encoded once for each of the two modes, with and without gradients.
        """
        kept: dict[bool, Tensor] = {}

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            mode = torch.is_grad_enabled()
            if mode not in kept:
                kept[mode] = self.conditions(batch)
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            return self.predict(noisy, timesteps, text, kept[mode])

        return predict

    def save(self, folder: Path) -> None:
        """The adapter itself: ``load_adapter`` reads a checkpoint's folder."""
        self.adapter.save_pretrained(folder)

    def export(self, folder: Path) -> None:
        """Write the adapter as a folder of its own."""
        self.adapter.save_pretrained(folder / self.folder)


def started_from(kind: type[Any], folder: str, wanted: Any, pipe: Any, *, free: Sequence[str] = ()) -> Any:
    """The adapter of class ``kind`` that a recipe's ``init_from`` names, float32: the folder of another run,
    or whatever ``load_adapter`` takes.

    Args:
        wanted: the configuration that the recipe and its networks give a new adapter.
        free: fields that no recipe sets, or that may change between two runs.

    Raises:
        BadInput: the two configurations differ in a field that is not ``free``.
        CheckpointError: what lies there is no such adapter, or does not fit the U-Net of ``pipe``.
    """
    adapter = load_as_stored(folder, pipe).to(dtype=torch.float32)
    if not isinstance(adapter, kind):
        raise BadInput(f"init_from: {folder} is {adapter.name}, not {kind.name}")
    adapter.check_fits(pipe.unet)
    held, asked = adapter.config.to_dict(), wanted.to_dict()
    for name in asked:
        if name not in free and held[name] != asked[name]:
            raise BadInput(
                f"init_from: {folder} was made with {name} {held[name]}, and this recipe's objective (or a "
                f"network that it names) gives {asked[name]}"
            )
    return adapter
