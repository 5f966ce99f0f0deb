"""Batches for ``diffusion.py``: pictures, captions, and who is in them, all keyed by (seed, step, sample).

Photos are framed anew for every sample and encoded on the way: on a CPU that costs a tenth of a training step, as
much as reading prepared latents would save over the first few epochs, and no two views are the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.keypoints import draw_kps
from idpersona.training.data.captions import caption
from idpersona.training.data.faces import LOW_QUALITY_SOURCES, SOURCES, FaceData, sampling_weights
from idpersona.training.data.labels import label_unknown
from idpersona.training.keyed import StepKey
from idpersona.training.objectives.attributes import pictures_to_tensor
from idpersona.training.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from idpersona.training.objectives.diffusion import DiffusionConfig

KPS_RADIUS, KPS_STICK_WIDTH = 3, 1
_CHOICE = 0


@dataclass(frozen=True)
class DiffusionBatch:
    """Pictures float [B, 3, 128, 128] in [-1, 1]. Rows with a person come first: descriptors [people, 128] and
    drawings [people, 3, 128, 128] in [0, 1] are of those rows only. ``key`` names the rows in their order."""

    pictures: Tensor
    timesteps: Tensor
    token_ids: Tensor
    people: int
    key: StepKey
    descriptors: Tensor
    drawings: Tensor


class DiffusionData:
    """All training photos as latents, with captions made anew for every sample."""

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.faces = FaceData.open("train")
        attributes = label_unknown(self.faces, config.labeler)
        self.attributes = [
            {n: bool(v) for n, v in zip(self.faces.attribute_names, row, strict=True) if v >= 0} for row in attributes
        ]
        self.weights = sampling_weights(self.faces)
        by_person: dict[str, list[int]] = {}
        for row, person in enumerate(self.faces.identities.tolist()):
            by_person.setdefault(person, []).append(row)
        self.others = [by_person[p] for p in self.faces.identities.tolist()]
        self.paired = np.array([r for r, rows in enumerate(self.others) if len(rows) > 1])
        self.paired_weights = sampling_weights(self.faces, self.paired)
        rng = np.random.default_rng(0)
        texts = [self._caption(int(r), rng) for r in rng.integers(len(self.faces), size=20000)]
        self.tokenizer = train_tokenizer(
            texts, Path(tempfile.mkdtemp()), vocabulary=config.vocabulary, length=config.prompt_length
        )

    def batch(self, key: StepKey) -> DiffusionBatch:
        """The samples of ``key``; a fixed share of them, by sample index, has a person."""
        period = 8
        with_person = [i for i in key.indices if (i % period) < round(period * self.config.identity)]
        ordered = with_person + [i for i in key.indices if i not in set(with_person)]
        people = len(with_person)
        rows = [self._sample(key, i, person=n < people) for n, i in enumerate(ordered)]
        ordered_key = StepKey(key.seed, key.step, ordered, key.total)
        # Strata over the batch: the spread of timesteps is the same in every step, which steadies the gradient.
        strata = ordered_key.strata()
        timesteps = torch.tensor([int(1000 * (s + r[1]) / key.total) for s, r in zip(strata, rows, strict=True)])
        ids = self.tokenizer([r[2] for r in rows], padding="max_length", truncation=True, return_tensors="pt").input_ids
        persons = [r for r in rows if r[3] is not None]
        return DiffusionBatch(
            pictures=pictures_to_tensor([r[0] for r in rows]),
            timesteps=timesteps.clamp(0, 999),
            token_ids=ids,
            people=people,
            key=ordered_key,
            descriptors=torch.from_numpy(np.stack([r[3] for r in persons])) if persons else torch.empty(0, 128),
            drawings=torch.from_numpy(np.stack([r[4] for r in persons])).permute(0, 3, 1, 2).float().div(255)
            if persons
            else torch.empty(0, 3, 128, 128),
        )

    def _sample(self, key: StepKey, index: int, *, person: bool) -> tuple[np.ndarray, float, str, np.ndarray | None, np.ndarray | None]:
        rng, config = key.rng(index, _CHOICE), self.config
        if person:
            row = int(self.paired[np.searchsorted(self.paired_weights, rng.random())])
        else:
            row = int(np.searchsorted(self.weights, rng.random()))
        picture, keypoints = self.faces.framed_random(row, rng, wide=bool(rng.random() < config.wide))
        offset = float(rng.random())
        text = self._caption(row, rng)
        drop = rng.random()
        if not person:
            return picture, offset, "" if drop < config.text_drop else text, None, None
        descriptor = self._reference(row, rng)
        no_person = drop < config.identity_drop + config.both_drop
        no_text = config.identity_drop <= drop < config.identity_drop + config.both_drop + config.text_drop
        if no_person:
            descriptor = np.zeros_like(descriptor)
        drawing = draw_kps(
            Image.new("RGB", (128, 128)), keypoints, radius=KPS_RADIUS, stick_width=KPS_STICK_WIDTH
        )
        return picture, offset, "" if no_text else text, descriptor, np.asarray(drawing)

    def _reference(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """Descriptor of one to four other photos of the person, averaged as merged identities are."""
        others = [r for r in self.others[row] if r != row]
        count = min(len(others), 1 if rng.random() < 0.7 else int(rng.integers(2, 5)))
        chosen = rng.choice(others, size=count, replace=False)
        return self.faces.descriptors[chosen].mean(0)

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        attributes = self.attributes[row]
        enlarged = SOURCES[self.faces.sources[row]] in LOW_QUALITY_SOURCES
        low = bool(attributes.get("Blurry")) or (enlarged and rng.random() < 0.7)
        return caption(attributes, rng, low_quality=low)

