"""What adapters are trained on: a photo that is drawn, and another one that tells who it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from idpersona.pixels import to_tensor
from idpersona.training.data.faces import Part
from idpersona.training.data.framing import frame_pixels
from idpersona.training.data.paired import PairedPhotos
from idpersona.training.data.pictures import jitter
from idpersona.training.keyed import StepKey
from idpersona.training.objectives.diffusion_data import PERIOD, CaptionedFaces

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
        shake: how far the place is moved at random where face_descriptor reads a face (:func:`shaken
            <idpersona.training.objectives.likeness.shaken>`).
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
    shake: float = Field(0.0, ge=0, le=0.5)
    wide: Share = 0.25
    reference_zoom: float = Field(1.0, gt=0.3, lt=2)

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        if self.latent_descriptor and self.face_descriptor:
            raise ValueError("name a latent_descriptor or a face_descriptor, not both")
        if self.shake and not self.face_descriptor:
            raise ValueError("shake is of face_descriptor: name one")
        return self


@dataclass(frozen=True)
class InjectionBatch:
    """One step's samples.

    Attributes:
        pictures: float32 [B, 3, 128, 128] in [-1, 1], what is drawn.
        points: keypoints in it, float32 [B, 5, 2] pixels.
        timesteps: int64 [B] in 0..999.
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


class InjectionData(ABC):
    """Samples, made anew for every step.

    Attributes:
        descriptors: of all photos, float32 [N, D].
        encoder: name of what made them.
    """

    descriptors: np.ndarray
    encoder: str

    def __init__(self, config: InjectionConfig, timesteps: int):
        self.config, self.timesteps = config, timesteps

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """One sample: picture, points, text, offset (0..1), descriptor, drop (0..1), and reference with
        reference_points where methods look at it."""

    def batch(self, key: StepKey) -> InjectionBatch:
        """The samples of ``key``."""
        config = self.config
        samples = [self.sample(key.rng(i, _CHOICE)) for i in key.indices]
        # Strata over the batch: timesteps spread alike in every step, which steadies the gradient.
        places = [
            (stratum + s["offset"]) / key.total for stratum, s in zip(key.strata(), samples, strict=True)
        ]
        timesteps = torch.tensor([int(self.timesteps * place) for place in places])
        drops = [s["drop"] for s in samples]
        # One draw decides: nobody with a caption, nobody without, somebody without a caption, or all.
        alone, both = config.identity_drop, config.identity_drop + config.both_drop
        unsaid = [alone <= drop < both + config.caption_drop for drop in drops]

        def stacked(name: str) -> Any:
            return torch.from_numpy(np.stack([s[name] for s in samples]))

        looked_at = "reference" in samples[0]
        return InjectionBatch(
            pictures=to_tensor([s["picture"] for s in samples]),
            points=stacked("points"),
            timesteps=timesteps.clamp(0, self.timesteps - 1),
            references=to_tensor([s["reference"] for s in samples]) if looked_at else torch.zeros(len(drops)),
            reference_points=stacked("reference_points") if looked_at else torch.zeros(len(drops)),
            descriptors=stacked("descriptor"),
            somebody=torch.tensor([drop >= both for drop in drops]),
            texts=tuple("" if gone else s["text"] for gone, s in zip(unsaid, samples, strict=True)),
            key=key,
        )


class FaceInjection(InjectionData):
    """The photos that the embedded model was trained on; photo and reference are both framed anew."""

    encoder = "dlib"

    def __init__(self, config: InjectionConfig, timesteps: int, part: Part = "train"):
        """Raises BadInput when nobody has two photos."""
        super().__init__(config, timesteps)
        self.captioned = CaptionedFaces(config.labeler, part)
        self.captioned.require_pairs()
        self.faces = self.captioned.faces
        self.descriptors = self.faces.descriptors

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        config, captioned = self.config, self.captioned
        row = captioned.draw_row(rng, paired=True)
        picture, points = self.faces.framed_random(row, rng, wide=bool(rng.random() < config.wide))
        offset, text = float(rng.random()), captioned.caption(row, rng)
        others = captioned.draw_others(row, rng, several=0.0)
        source = row if rng.random() < config.same_photo else int(others[0])
        reference, reference_points = self._reference(source, rng)
        return {
            "picture": picture,
            "points": points,
            "offset": offset,
            "text": text,
            "reference": reference,
            "reference_points": reference_points,
            "descriptor": self.descriptors[source],
            "drop": float(rng.random()),
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


class DatasetInjection(InjectionData):
    """A dataset of ``idpersona dataset build``, for methods that are told by its embeddings alone."""

    def __init__(self, config: InjectionConfig, timesteps: int, photos: PairedPhotos):
        super().__init__(config, timesteps)
        self.photos = photos
        self.descriptors, self.encoder = photos.descriptors, photos.encoder

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        photos = self.photos
        row = int(rng.choice(photos.targets))
        picture, points = photos.picture(row, rng)
        source = row if rng.random() < self.config.same_photo else photos.draw_reference(row, rng)
        return {
            "picture": picture,
            "points": points,
            "offset": float(rng.random()),
            "text": photos.photos[row].caption,
            "descriptor": photos.descriptors[source],
            "drop": float(rng.random()),
        }
