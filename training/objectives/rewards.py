"""What drawn pictures are worth, as functions whose gradients reach their pixels.

The rewards of ID-Aligner (arXiv:2404.15449); its preference networks are not public, and LAION's aesthetic
head stands in for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.checkpoint import fill, only_tensors, read_tensors
from idpersona.encoders.pretrained import load_strictly, load_tokenizer
from idpersona.encoders.vit import CLIP
from idpersona.errors import MissingWeights
from idpersona.training.objectives.face_reader import FaceReader

_OTHER_HALF = {"vision": ("text_", "logit_scale"), "text": ("vision_", "visual_", "logit_scale")}
"""Beginnings of keys in a file of the whole CLIP that only its other half has."""


@dataclass(frozen=True)
class Wanted:
    """What a batch of pictures was to show.

    Attributes:
        people: unit embeddings of whom, float32 [B, D]; zeros for nobody.
        texts: the prompts.
        points: keypoints of the face in each picture, [5, 2] pixels; None where there is none.
    """

    people: Tensor
    texts: Sequence[str]
    points: Sequence[np.ndarray | None]

    def faces(self) -> list[int]:
        """The rows in which somebody was wanted and a face is."""
        somebody = self.people.any(dim=1).tolist()
        return [n for n, points in enumerate(self.points) if somebody[n] and points is not None]


class RewardModel(Protocol):
    """Says how good pictures float32 [B, 3, H, W] in [-1, 1] are: [B], the more the better."""

    def __call__(self, pictures: Tensor, wanted: Wanted) -> Tensor: ...


class FaceSimilarity:
    """Cosine of the face in each picture to the person who was wanted; 0 without gradient where there is no
    face, or nobody was wanted."""

    def __init__(self, reader: FaceReader):
        self.reader = reader

    def __call__(self, pictures: Tensor, wanted: Wanted) -> Tensor:
        people = wanted.people
        return (self.reader.where_found(pictures, wanted.points, people.shape[1]) * people).sum(dim=1)


class Aesthetic:
    """What a linear head on CLIP's embedding of a picture says, as LAION's does of ViT-L/14: about 1 to 10.

    Args:
        clip: folder of CLIP, or of its vision half (with the projection).
        head: file with ``weight`` [1, D] and ``bias`` [1], as ``sa_0_4_vit_l_14_linear.pth``.

    Raises:
        MissingWeights: one of them is not there.
        CheckpointError: one of them is damaged, or they do not fit together.
    """

    def __init__(self, clip: str | Path, head: str | Path):
        if not Path(head).is_file():
            raise MissingWeights(
                f"there is no aesthetic head {head}: give the file of a linear head on CLIP, such as LAION's "
                "sa_0_4_vit_l_14_linear.pth"
            )
        self.clip = _vision(clip)
        with torch.device("meta"):
            linear = nn.Linear(int(self.clip.config.projection_dim), 1)
        self.head = fill(linear, only_tensors(read_tensors(head), str(head)), str(head)).float()
        self.head.requires_grad_(False)

    def __call__(self, pictures: Tensor, wanted: Wanted) -> Tensor:
        return self.head.to(pictures.device)(_seen(self.clip, pictures))[:, 0]


class TextSimilarity:
    """Cosine of each picture to its prompt by CLIP.

    Args:
        clip: folder of the whole CLIP, with its tokenizer.

    Raises:
        MissingWeights: it is not there.
        CheckpointError: it is damaged, or there is a half of it only.
    """

    def __init__(self, clip: str | Path):
        from transformers import CLIPTextModelWithProjection

        self.clip = _vision(clip)
        self.text = load_strictly(
            CLIPTextModelWithProjection, clip, unread=("position_ids", *_OTHER_HALF["text"])
        )
        self.tokenizer = load_tokenizer(clip, int(self.text.config.vocab_size))

    def __call__(self, pictures: Tensor, wanted: Wanted) -> Tensor:
        most = int(self.text.config.max_position_embeddings)
        told = self.tokenizer(
            list(wanted.texts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        ).to(pictures.device)
        with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):
            read = self.text.to(pictures.device)(told.input_ids, told.attention_mask).text_embeds
        return (_seen(self.clip, pictures) * F.normalize(read.float(), dim=1)).sum(dim=1)


def _vision(folder: str | Path) -> Any:
    from transformers import CLIPVisionModelWithProjection

    unread = ("position_ids", *_OTHER_HALF["vision"])
    return load_strictly(CLIPVisionModelWithProjection, folder, unread=unread)


def _seen(clip: Any, pictures: Tensor) -> Tensor:
    """CLIP's unit embeddings float32 [B, D] of the middle squares of pictures; gradients flow."""
    side, short = int(clip.config.image_size), min(pictures.shape[-2:])
    top, left = ((length - short) // 2 for length in pictures.shape[-2:])
    square = pictures[:, :, top : top + short, left : left + short].float()
    if short != side:
        square = F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    mean, spread = (torch.tensor(part, device=square.device).view(1, 3, 1, 1) for part in CLIP)
    values = (square / 2 + 0.5 - mean) / spread
    # In full precision also within autocast, as faces and prompts are read.
    with torch.autocast(square.device.type, enabled=False):
        return F.normalize(clip.to(square.device)(values).image_embeds.float(), dim=1)
