"""CLIPScore: how well a picture fits a text (arXiv:2104.08718, without its factor of 2.5; CLIP: 2103.00020).

100 times the cosine of what CLIP makes of picture and text, and at least 0. PIE-Bench takes ViT-L/14.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.encoders.pretrained import load_strictly, load_tokenizer
from idpersona.encoders.vit import CLIP

NAME = "clip-vit-l14"


class ClipScore:
    """Scores 0..100 of RGB pictures for a text.

    Args:
        model: ``CLIPModel`` of transformers.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer

    def pixels(self, picture: Image.Image) -> Tensor:
        """What the model sees, float32 [3, side, side]: the middle square, scaled and standardised."""
        side = int(self.model.config.vision_config.image_size)
        short = min(picture.size)
        width, height = (int(side * length / short) for length in picture.size)
        scaled = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        values = np.array(scaled.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
        mean, spread = (np.array(part, dtype=np.float32) for part in CLIP)
        return torch.from_numpy((values - mean) / spread).permute(2, 0, 1)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image], text: str) -> list[float]:
        """One score for each picture; words beyond CLIP's length (77 tokens) are not read."""
        most = int(self.model.config.text_config.max_position_embeddings)
        told = self.tokenizer([text], truncation=True, max_length=most, return_tensors="pt")
        found = self.model(
            input_ids=told["input_ids"].to(self.model.device),
            attention_mask=told["attention_mask"].to(self.model.device),
            pixel_values=torch.stack([self.pixels(picture) for picture in pictures]).to(self.model.device),
        )
        # Both have unit length.
        cosines = (found.image_embeds.float() @ found.text_embeds.float().T)[:, 0]
        return [max(0.0, 100 * float(cosine)) for cosine in cosines]


def load_clip_score(folder: str | Path | None = None, *, device: str | torch.device = "cpu") -> ClipScore:
    """The score by the CLIP model in a folder; None takes ``clip-vit-l14`` of the registry.

    Raises:
        MissingWeights: it is not here.
        CheckpointError: the folder holds no CLIP model (its keys are named), or no tokenizer.
    """
    from transformers import CLIPModel

    from idpersona.registry import locate

    place = locate(NAME) if folder is None else Path(folder)
    model = load_strictly(CLIPModel, place)
    tokenizer = load_tokenizer(place, int(model.config.text_config.vocab_size))
    return ClipScore(model.to(device), tokenizer)
