"""Batches for ``diffusion.py``: pictures, captions, and who is in them, all keyed by (seed, step, sample).

Photos are framed anew for every sample and encoded on the way: on a CPU that costs a tenth of a training
step, as much as reading prepared latents would save over the first few epochs, and no two views are the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from idpersona.errors import BadInput
from idpersona.keypoints import draw_kps
from idpersona.pixels import to_tensor
from idpersona.training.data.captions import caption
from idpersona.training.data.faces import LOW_QUALITY_SOURCES, SOURCES, FaceData, Part, sampling_weights
from idpersona.training.data.framing import SIDE
from idpersona.training.data.labels import label_unknown
from idpersona.training.keyed import StepKey
from idpersona.training.objectives.diffusion_config import PERIOD, DiffusionConfig
from idpersona.training.tokenizer import train_tokenizer

KPS_RADIUS, KPS_STICK_WIDTH = 3, 1
DESCRIPTOR = 128
"""Length of a dlib descriptor."""
_CHOICE = 0


@dataclass(frozen=True)
class DiffusionBatch:
    """One step's samples, those with a person first.

    Attributes:
        pictures: float32 [B, 3, 128, 128] in [-1, 1].
        timesteps: int64 [B] in 0..999.
        token_ids: captions, int64 [B, prompt_length].
        people: how many of the rows have a person.
        key: names the rows in their order.
        descriptors: float32 [people, 128], who is in the picture; zeros where that is kept from the model.
        drawings: IdentityNet's conditions, float32 [people, 3, 128, 128] in [0, 1].
    """

    pictures: Tensor
    timesteps: Tensor
    token_ids: Tensor
    people: int
    key: StepKey
    descriptors: Tensor
    drawings: Tensor

    def to(self, device: torch.device) -> DiffusionBatch:
        """The same batch with its tensors on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def at(self, timestep: int) -> DiffusionBatch:
        """The same batch with every row at ``timestep``."""
        return replace(self, timesteps=torch.full_like(self.timesteps, timestep))

    def of_share(self, share: float) -> DiffusionBatch:
        """The rows with a person among the first ``share`` of every ``PERIOD`` sample indices."""
        indices = self.key.indices
        rows = [n for n in range(self.people) if indices[n] % PERIOD < round(PERIOD * share)]
        key = replace(self.key, indices=[indices[n] for n in rows])
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        picked: dict[str, Any] = {
            name: value[rows] for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, people=len(rows), key=key, **picked)


class CaptionedFaces:
    """All photos of a ``part`` of the split, what is known of them in words, and whom they show.

    ``labeler`` is the folder of the classifier that captions photos without attributes, or None.
    """

    def __init__(self, labeler: str | None, part: Part = "train"):
        self.faces = FaceData.open(part)
        attributes = label_unknown(self.faces, labeler)
        self.attributes = [
            {n: bool(v) for n, v in zip(self.faces.attribute_names, row, strict=True) if v >= 0}
            for row in attributes
        ]
        self.weights = sampling_weights(self.faces)
        by_person: dict[str, list[int]] = {}
        for row, person in enumerate(self.faces.identities.tolist()):
            by_person.setdefault(person, []).append(row)
        self.others = [by_person[p] for p in self.faces.identities.tolist()]
        self.paired = np.array([r for r, rows in enumerate(self.others) if len(rows) > 1], dtype=np.int64)
        self.paired_weights = sampling_weights(self.faces, self.paired) if len(self.paired) else np.zeros(0)

    def require_pairs(self) -> None:
        """Raises BadInput when nobody has two photos."""
        if not len(self.paired):
            raise BadInput("objective.identity needs people with at least two photos")

    def draw_row(self, rng: np.random.Generator, *, paired: bool) -> int:
        """A random photo; ``paired``: of somebody with another one."""
        if paired:
            return int(self.paired[np.searchsorted(self.paired_weights, rng.random())])
        return int(np.searchsorted(self.weights, rng.random()))

    def draw_others(self, row: int, rng: np.random.Generator, *, several: float = 0.3) -> np.ndarray:
        """One other photo of the person of ``row``, or in a share ``several`` of the cases two to four."""
        others = [r for r in self.others[row] if r != row]
        count = min(len(others), 1 if rng.random() < 1 - several else int(rng.integers(2, 5)))
        return rng.choice(others, size=count, replace=False)

    def caption(self, row: int, rng: np.random.Generator) -> str:
        """One of the many captions of a photo."""
        attributes = self.attributes[row]
        enlarged = SOURCES[self.faces.sources[row]] in LOW_QUALITY_SOURCES
        low = bool(attributes.get("Blurry")) or (enlarged and rng.random() < 0.7)
        return caption(attributes, rng, low_quality=low)


@dataclass(frozen=True)
class _Sample:
    picture: np.ndarray
    keypoints: np.ndarray
    offset: float
    text: str
    descriptor: np.ndarray


def draw(keypoints: np.ndarray) -> np.ndarray:
    """IdentityNet's condition for the embedded model: uint8 [128, 128, 3]."""
    return np.asarray(draw_kps((SIDE, SIDE), keypoints, radius=KPS_RADIUS, stick_width=KPS_STICK_WIDTH))


class DiffusionData(CaptionedFaces):
    """All training photos; framings, captions and references are made anew for every sample."""

    def __init__(self, config: DiffusionConfig, tokenizer: CLIPTokenizer | None = None):
        """Without a ``tokenizer`` one is learnt from the captions.

        Raises BadInput when samples shall have a person, but nobody has two photos.
        """
        super().__init__(config.labeler)
        self.config = config
        if config.identity:
            self.require_pairs()
        self.tokenizer = tokenizer or self._learn_tokenizer()

    def _learn_tokenizer(self) -> CLIPTokenizer:
        rng = np.random.default_rng(0)
        texts = [self.caption(int(r), rng) for r in rng.integers(len(self.faces), size=20000)]
        with tempfile.TemporaryDirectory() as folder:
            return train_tokenizer(
                texts, Path(folder), vocabulary=self.config.vocabulary, length=self.config.prompt_length
            )

    def batch(self, key: StepKey) -> DiffusionBatch:
        """The samples of ``key``; a fixed share of them, by sample index, has a person."""
        cut = round(PERIOD * self.config.identity)
        ordered = sorted(key.indices, key=lambda i: i % PERIOD >= cut)  # stable: else in their own order
        people = sum(i % PERIOD < cut for i in ordered)
        samples = [self._sample(key.rng(i, _CHOICE), person=n < people) for n, i in enumerate(ordered)]
        ordered_key = StepKey(key.seed, key.step, ordered, key.total)
        # Strata over the batch: timesteps spread alike in every step, which steadies the gradient.
        pairs = zip(ordered_key.strata(), samples, strict=True)
        timesteps = torch.tensor([int(1000 * (stratum + s.offset) / key.total) for stratum, s in pairs])
        ids = self.tokenizer(
            [s.text for s in samples], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        descriptors = np.zeros((people, DESCRIPTOR), np.float32)
        drawings = np.zeros((people, SIDE, SIDE, 3), np.uint8)
        for n, sample in enumerate(samples[:people]):
            descriptors[n] = sample.descriptor
            drawings[n] = draw(sample.keypoints)
        return DiffusionBatch(
            pictures=to_tensor([s.picture for s in samples]),
            timesteps=timesteps.clamp(0, 999),
            token_ids=ids,
            people=people,
            key=ordered_key,
            descriptors=torch.from_numpy(descriptors),
            drawings=torch.from_numpy(drawings).permute(0, 3, 1, 2).float().div(255),
        )

    def _sample(self, rng: np.random.Generator, *, person: bool) -> _Sample:
        config = self.config
        row = self.draw_row(rng, paired=person)
        picture, keypoints = self.faces.framed_random(row, rng, wide=bool(rng.random() < config.wide))
        offset = float(rng.random())
        text = self.caption(row, rng)
        drop = rng.random()
        if not person:
            text = "" if drop < config.text_drop else text
            return _Sample(picture, keypoints, offset, text, np.zeros(DESCRIPTOR, np.float32))
        # Averaged as merged identities are.
        descriptor = self.faces.descriptors[self.draw_others(row, rng)].mean(0)
        # One draw decides: nobody with a caption, nobody without, somebody without a caption, or all.
        alone, both = config.identity_drop, config.identity_drop + config.both_drop
        if drop < both:
            descriptor = np.zeros_like(descriptor)
        if alone <= drop < both + config.caption_drop:
            text = ""
        return _Sample(picture, keypoints, offset, text, descriptor)
