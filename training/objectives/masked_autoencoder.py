"""Train the small self-supervised ViT: it looks at half of a photo's patches and draws the others.

A masked autoencoder (He et al., arXiv:2111.06377), and on its class token a contrast between two views of a
photo as in CAN (Mishra et al., arXiv:2210.16870): the patches keep what a face looks like, the class token
learns what two views have in common. No label has a part in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from idpersona.encoders.masks import head_mask
from idpersona.pixels import to_tensor
from idpersona.training.data.faces import FaceData, sampling_weights
from idpersona.training.data.framing import SIDE
from idpersona.training.data.pictures import jitter
from idpersona.training.keyed import StepKey
from idpersona.training.loop import Objective

_MASKING = 1
PIXEL_VARIANCE = 0.27
"""Of the training photos, in [-1, 1]. Patches are compared as they are, not each normalised as in the paper's
best variant: that would leave the colour of skin and hair untold.
"""
BACKGROUND = 255
"""Grey value that is painted where a photo does not show the subject."""


class MaskedAutoencoderConfig(BaseModel):
    """Sizes of ``transformers.ViTMAEModel``, and the weight of the contrast.

    Attributes:
        patch: side of a patch in pixels; a picture of 128 pixels has (128 / patch)² of them.
        width, layers, heads: of the encoder.
        masked: share of the patches that the encoder does not see.
        contrast: weight of the contrastive loss beside the squared error of the drawn patches.
        temperature: of the contrastive loss.
        cut_out: share of the views whose background is painted white.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["masked-autoencoder"]
    patch: int = Field(8, gt=0)
    width: int = Field(128, gt=0)
    layers: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    masked: float = Field(0.5, gt=0, lt=1)
    contrast: float = Field(0.03, ge=0)
    temperature: float = Field(0.1, gt=0)
    cut_out: float = Field(0.4, ge=0, le=1)


class MaskedAutoencoderObjective(Objective):
    """See the module's docstring. ``model`` is exported without its decoder."""

    def __init__(self, config: MaskedAutoencoderConfig):
        self.config = config
        self.faces = FaceData.open("train")
        self.weights = sampling_weights(self.faces)
        sizes = ViTMAEConfig(
            image_size=SIDE,
            patch_size=config.patch,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.width,
            decoder_hidden_size=config.width,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=config.heads,
            decoder_intermediate_size=4 * config.width,
            mask_ratio=config.masked,
        )
        self.model = ViTMAEForPreTraining(sizes)
        if not torch.cuda.is_available():
            # On a CPU the backward pass of the fused attention in bf16 costs more than the plain products.
            self.model.set_attn_implementation("eager")
        _place(self.model, config)
        self.head = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )
        self.trained = nn.ModuleDict({"model": self.model, "head": self.head})

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        device = self.model.device
        views = [view for index in key.indices for view in self._views(key.rng(index))]
        pictures = to_tensor(views).to(device)
        patches = (SIDE // self.config.patch) ** 2
        noise = torch.from_numpy(
            np.concatenate([key.rng(i, _MASKING).random((2, patches), np.float32) for i in key.indices])
        )
        model: Any = self.model
        seen = model.vit(pictures, noise=noise.to(device))
        drawn = model.decoder(seen.last_hidden_state, seen.ids_restore).logits
        error = (drawn.float() - model.patchify(pictures)).square().mean(dim=-1)
        loss = (error * seen.mask).sum() / seen.mask.sum() / PIXEL_VARIANCE
        figures = {"patches": float(loss.detach())}
        if self.config.contrast:
            contrast, right = self._contrast(self.head(seen.last_hidden_state[:, 0]).float())
            figures |= {"contrast": float(contrast.detach()), "right": right}
            loss = loss + self.config.contrast * contrast
        return loss, figures

    def _views(self, rng: np.random.Generator) -> list[np.ndarray]:
        row = int(np.searchsorted(self.weights, rng.random()))
        views = []
        for _ in range(2):
            picture, keypoints = self.faces.framed_random(row, rng)
            picture = jitter(picture, rng)
            if rng.random() < self.config.cut_out:
                picture = np.where(head_mask((SIDE, SIDE), keypoints)[..., None] > 0, picture, BACKGROUND)
            views.append(picture.astype(np.uint8))
        return views

    def _contrast(self, embedding: Tensor) -> tuple[Tensor, float]:
        """InfoNCE (arXiv:1807.03748) over views [2 * photos, D] whose pairs lie next to each other."""
        embedding = F.normalize(embedding, dim=1)
        likeness = embedding @ embedding.T / self.config.temperature
        likeness = likeness.masked_fill(torch.eye(len(embedding), dtype=torch.bool).to(likeness.device), -1e9)
        partner = torch.arange(len(embedding), device=likeness.device) ^ 1
        right = (likeness.argmax(1) == partner).float().mean()
        return F.cross_entropy(likeness, partner), float(right)

    def export(self, folder: Path) -> None:
        """Write ``model``, a stock ``ViTMAEModel`` folder that sees every patch."""
        target = folder / "model"
        encoder: Any = self.model.vit
        encoder.config.mask_ratio = 0.0
        encoder.save_pretrained(target)
        encoder.config.mask_ratio = self.config.masked
        (target / "preprocessor_config.json").write_text(
            json.dumps(
                {
                    "image_processor_type": "ViTImageProcessor",
                    "size": {"height": SIDE, "width": SIDE},
                    "image_mean": [0.5, 0.5, 0.5],
                    "image_std": [0.5, 0.5, 0.5],
                },
                indent=2,
            )
            + "\n"
        )


@torch.no_grad()
def _place(model: ViTMAEForPreTraining, config: MaskedAutoencoderConfig) -> None:
    """Give a fresh model the paper's fixed sine positions and the usual start of its two special tokens.

    transformers leaves all of them at zero for a model that is not loaded: no patch would know its place.
    """
    side = SIDE // config.patch
    grid = get_2d_sincos_pos_embed(config.width, side, output_type="pt")
    positions = torch.cat([grid.new_zeros(1, config.width), grid]).float()[None]
    model.vit.embeddings.position_embeddings.copy_(positions)
    model.decoder.decoder_pos_embed.copy_(positions)
    nn.init.normal_(model.vit.embeddings.cls_token, std=0.02)
    nn.init.normal_(model.decoder.mask_token, std=0.02)
