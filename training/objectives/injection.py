"""Train an adapter on a base that stays as it is: what all such objectives share.

A sample is a photo made noisy and one or more reference photos of the same person, mostly others than it, so
that copying a reference cannot pay alone. Beside the denoising error there is the identity loss of
``diffusion.py`` on estimated clean latents, of the photo and of what the model begins from pure noise itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from transformers import CLIPTokenizer

from idpersona.adapters.base import Adapter
from idpersona.errors import BadInput
from idpersona.pixels import to_tensor
from idpersona.training.data.faces import Part
from idpersona.training.data.framing import frame_pixels
from idpersona.training.data.pictures import jitter
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective
from idpersona.training.objectives.denoising import Denoised, Predict, denoise, draw
from idpersona.training.objectives.diffusion_data import PERIOD, CaptionedFaces
from idpersona.training.objectives.frozen import FrozenBase
from idpersona.training.objectives.likeness import FaceLikeness, IdentityLoss, Likeness

_CHOICE = 0
Share = Annotated[float, Field(ge=0, le=1)]


class InjectionConfig(BaseModel):
    """What every adapter is trained on.

    Attributes:
        base: folder of the text-to-image pipeline, which is not changed.
        labeler: folder of the attribute classifier that captions photos without attributes, or null.
        same_photo: share of the samples whose reference is the very photo that is drawn.
        caption_drop, identity_drop, both_drop: shares that see no caption, nobody (zeros for every feature),
            and neither.
        denoising: weight of the denoising error.
        min_snr: gamma of ``loss_weight``.
        latent_descriptor: folder of the network that reads a face's descriptor from latents, or null.
        face_descriptor: dlib, to read it from the pixels of the decoded face, or null.
        likeness: weight of the identity loss that the one or the other gives.
        drawn: share of each batch whose people the model besides draws from noise itself, up to a random step
            at which the identity loss is taken.
        drawn_from: first training step with such drawings; before it they are no faces yet.
        wide: share of samples in a framing from the whole range of poses.
        reference_zoom: size of the reference face relative to the standard framing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    labeler: str | None = None
    same_photo: Share = 0.3
    caption_drop: Share = 0.05
    identity_drop: Share = 0.05
    both_drop: Share = 0.05
    denoising: float = Field(1.0, ge=0)
    min_snr: float = Field(5.0, gt=0)
    latent_descriptor: str | None = None
    face_descriptor: Literal["dlib"] | None = None
    likeness: float = Field(1.0, ge=0)
    drawn: Share = 0.25
    drawn_from: int = Field(300, ge=0)
    wide: Share = 0.25
    reference_zoom: float = Field(1.0, gt=0.3, lt=2)

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        if self.latent_descriptor and self.face_descriptor:
            raise ValueError("name a latent_descriptor or a face_descriptor, not both")
        return self


@dataclass(frozen=True)
class InjectionBatch:
    """One step's samples.

    Attributes:
        pictures: float32 [B, 3, 128, 128] in [-1, 1], what is drawn.
        points: keypoints in it, float32 [B, 5, 2] pixels.
        timesteps: int64 [B] in 0..999.
        token_ids: captions, int64 [B, prompt_length].
        texts: the captions, in words.
        references: float32 [B, 3, 128, 128] in [-1, 1], a photo of the person, framed by its face.
        reference_points: keypoints in it, float32 [B, 5, 2] pixels.
        descriptors: float32 [B, 128], of the person.
        somebody: bool [B]; False where the person is kept from the model.
        key: names the rows.
    """

    pictures: Tensor
    points: Tensor
    timesteps: Tensor
    token_ids: Tensor
    references: Tensor
    reference_points: Tensor
    descriptors: Tensor
    somebody: Tensor
    texts: tuple[str, ...]
    key: StepKey

    def to(self, device: torch.device) -> InjectionBatch:
        """The same batch with its tensors on ``device``."""
        return replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def of_share(self, share: float) -> InjectionBatch:
        """The first ``share`` of every ``PERIOD`` sample indices, however many processes share a step."""
        indices = list(self.key.indices)
        rows = [n for n, index in enumerate(indices) if index % PERIOD < round(PERIOD * share)]
        return replace(
            self,
            key=replace(self.key, indices=[indices[n] for n in rows]),
            texts=tuple(self.texts[n] for n in rows),
            **{name: value[rows] for name, value in self._tensors().items()},
        )

    def _tensors(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class InjectionData(CaptionedFaces):
    """Photos with references, both framed anew for every sample."""

    def __init__(self, config: InjectionConfig, tokenizer: CLIPTokenizer, part: Part = "train"):
        """Raises BadInput when nobody has two photos."""
        super().__init__(config.labeler, part)
        self.config, self.tokenizer = config, tokenizer
        self.require_pairs()

    def batch(self, key: StepKey) -> InjectionBatch:
        """The samples of ``key``."""
        samples = [self._sample(key.rng(i, _CHOICE)) for i in key.indices]
        offsets = [s["offset"] for s in samples]
        # Strata over the batch: timesteps spread alike in every step, which steadies the gradient.
        pairs = zip(key.strata(), offsets, strict=True)
        timesteps = torch.tensor([int(1000 * (stratum + offset) / key.total) for stratum, offset in pairs])
        ids = self.tokenizer(
            [s["text"] for s in samples], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return InjectionBatch(
            pictures=to_tensor([s["picture"] for s in samples]),
            points=torch.from_numpy(np.stack([s["points"] for s in samples])),
            timesteps=timesteps.clamp(0, 999),
            token_ids=ids,
            references=to_tensor([s["reference"] for s in samples]),
            reference_points=torch.from_numpy(np.stack([s["reference_points"] for s in samples])),
            descriptors=torch.from_numpy(np.stack([s["descriptor"] for s in samples])),
            somebody=torch.tensor([s["somebody"] for s in samples]),
            texts=tuple(s["text"] for s in samples),
            key=key,
        )

    def _sample(self, rng: np.random.Generator) -> dict[str, Any]:
        config = self.config
        row = self.draw_row(rng, paired=True)
        picture, points = self.faces.framed_random(row, rng, wide=bool(rng.random() < config.wide))
        offset, text = float(rng.random()), self.caption(row, rng)
        others = self.draw_others(row, rng, several=0.0)
        source = row if rng.random() < config.same_photo else int(others[0])
        reference, reference_points = self._reference(source, rng)
        drop = rng.random()
        # One draw decides: nobody with a caption, nobody without, somebody without a caption, or all.
        alone, both = config.identity_drop, config.identity_drop + config.both_drop
        return {
            "picture": picture,
            "offset": offset,
            "text": "" if alone <= drop < both + config.caption_drop else text,
            "reference": reference,
            "points": points,
            "reference_points": reference_points,
            "descriptor": self.faces.descriptors[source],
            "somebody": bool(drop >= both),
        }

    def _reference(self, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        zoom = self.config.reference_zoom
        picture, points = frame_pixels(
            self.faces.photo(row),
            self.faces.keypoints[row],
            shift=(float(rng.uniform(-0.025, 0.025)), float(rng.uniform(-0.025, 0.025))),
            scale=zoom * float(rng.uniform(0.95, 1.05)),
            roll_degrees=float(rng.uniform(-4, 4)),
            flip=bool(rng.random() < 0.5),
        )
        return (jitter(picture, rng) if rng.random() < 0.5 else picture), points


class InjectionObjective(Objective):
    """See the module's docstring. A method says what it is conditioned on and how that enters the U-Net."""

    adapter: Adapter
    folder: str
    """Name of the adapter's folder in the output."""

    places_faces: bool = False
    """The model is told where the face is, so that what it draws has it there."""

    def __init__(self, config: InjectionConfig):
        self.config = config
        base = FrozenBase.open(config.base)
        self.latents, self.unet, self.text_encoder = base.latents, base.unet, base.text_encoder
        self.kernel = base.kernel
        self.data = InjectionData(config, base.tokenizer)
        self.likeness: IdentityLoss | None = None
        if config.latent_descriptor:
            self.likeness = Likeness(config.latent_descriptor, self.data.faces.descriptors)
        elif config.face_descriptor:
            if config.drawn and not self.places_faces:
                raise BadInput(
                    "objective.drawn: this method does not say where a face is drawn, and face_descriptor "
                    "has to know: set drawn to 0, or name a latent_descriptor"
                )
            self.likeness = FaceLikeness(self.latents)

    def hold(self, adapter: Adapter) -> None:
        """Take over the adapter that is trained; called at the end of a method's ``__init__``."""
        self.adapter = adapter
        self.trained = nn.ModuleDict(adapter.parts)

    @abstractmethod
    def conditions(self, batch: InjectionBatch) -> Tensor:
        """What the model is told of each row's person, [B, n, D]."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Any, people: Tensor) -> Tensor:
        """v [B, C, h, w] for captions and people as :meth:`encode` and :meth:`conditions` give them."""

    def captions(self, batch: InjectionBatch) -> Tensor:
        """Token ids [B, n] of what the text encoder is given."""
        return batch.token_ids

    def further(self, batch: InjectionBatch, step: Denoised, text: Any) -> Mapping[str, Tensor]:
        """A method's own losses by name, weighted; ``step`` is the prediction for ``text``, the captions."""
        return {}

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        batch = self.data.batch(key).to(self.device)
        latents = self.latents(batch.pictures)
        text = self.encode(batch)
        step = denoise(self.predictor(batch, text), latents, batch.timesteps, batch.key)
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
    def device(self) -> torch.device:
        """Where the adapter is trained; the frozen models follow it."""
        device = self.adapter.device
        if self.unet.device != device:
            self.unet.to(device)
            self.text_encoder.to(device)
        return device

    def _unlike(self, batch: InjectionBatch, latents: Tensor, step: Any) -> list[tuple[str, float, Tensor]]:
        """Terms of the identity loss: name, share of the batch that it is the mean of, and its value."""
        if self.likeness is None or not self.config.likeness:
            return []
        known = step.signal() * batch.somebody.float()
        terms = [("unlike", 1.0, self.likeness.to_photos(step.estimate(), latents, known, batch.points))]
        if self.config.drawn and batch.key.step >= self.config.drawn_from:
            part = batch.of_share(self.config.drawn)
            if not len(part.texts):
                return terms
            predict = self.predictor(part, self.encode(part))
            own = draw(predict, tuple(latents.shape[1:]), part.key, latents.device)
            wanted = part.descriptors * part.somebody[:, None]
            unlike = self.likeness.to_descriptors(own.estimate(), wanted, own.signal(), part.points)
            terms.append(("unlike_drawn", len(part.texts) / len(latents), unlike))
        return terms

    @torch.no_grad()
    def encode(self, batch: InjectionBatch) -> Any:
        """What :meth:`predict` gets as ``text``: encoded captions [B, n, d], perhaps with more beside."""
        return self.text_encoder(self.captions(batch))[0]

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
            return self.predict(noisy, timesteps, text, kept[mode]).float()

        return predict

    def save(self, folder: Path) -> None:
        """The adapter itself: ``load_adapter`` reads a checkpoint's folder."""
        self.adapter.save_pretrained(folder)

    def export(self, folder: Path) -> None:
        """Write the adapter as a folder of its own."""
        self.adapter.save_pretrained(folder / self.folder)


def started_from(
    kind: type[Any], folder: str, wanted: Any, unet: nn.Module, *, free: Sequence[str] = ()
) -> Any:
    """The adapter of class ``kind`` that another run left in ``folder`` (a recipe's ``init_from``), float32.

    Args:
        wanted: the configuration that the recipe and its networks give a new adapter.
        free: fields that no recipe sets, or that may change between two runs.

    Raises:
        BadInput: the two configurations differ in a field that is not ``free``.
        CheckpointError: what lies there is no such adapter, or does not fit ``unet``.
    """
    adapter = kind.from_pretrained(folder).to(dtype=torch.float32)
    adapter.check_fits(unet)
    held, asked = adapter.config.to_dict(), wanted.to_dict()
    for name in asked:
        if name not in free and held[name] != asked[name]:
            raise BadInput(
                f"init_from: {folder} was made with {name} {held[name]}, and this recipe's objective (or a "
                f"network that it names) gives {asked[name]}"
            )
    return adapter
