"""Train AnyMaker on the embedded model, faces being its objects (arXiv:2406.11643).

Beside the usual denoising, a second branch is told what is *not* the identity, read from the target picture
itself through a learnt mask of its embedding; it must not need what the identity's tokens say, and they must
not say it: their directions are kept orthogonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn
from transformers import ViTMAEModel

from idpersona.adapters.anymaker.adapter import AnyMaker, local_layers
from idpersona.adapters.anymaker.config import AnyMakerConfig
from idpersona.adapters.anymaker.modules import AnyMakerCrossAttention, AnyMakerMapper
from idpersona.encoders.masks import head_mask
from idpersona.encoders.vit import all_tokens
from idpersona.seams.cross import cross_scope
from idpersona.seams.latent import Told
from idpersona.seams.text import word_rows
from idpersona.seams.tokens import TokenBranch
from idpersona.training.data.captions import NOUNS
from idpersona.training.data.framing import SIDE
from idpersona.training.objectives.denoising import Denoised, denoise
from idpersona.training.objectives.frozen import frozen
from idpersona.training.objectives.injection import InjectionObjective, started_from
from idpersona.training.objectives.injection_data import InjectionBatch, InjectionConfig


class AnyMakerTrainingConfig(InjectionConfig):
    """What is trained, beside :class:`InjectionConfig`'s fields.

    Attributes:
        vit: folder of the self-supervised ViT.
        hidden: width inside the mapper of the global token.
        depth: transformer blocks in the mapper.
        recognised: weight of a loss on the mapper alone: from its class token a linear layer, which training
            only has, is to read the face's descriptor.
        denoising, decoupled, contrast: weights of the three losses; published: 2, 1 and 0.5.
    """

    kind: Literal["anymaker"]
    vit: str
    hidden: int = 256
    depth: int = Field(2, ge=0)
    recognised: float = Field(1.0, ge=0)
    denoising: float = Field(2.0, ge=0)
    decoupled: float = Field(1.0, ge=0)
    contrast: float = Field(0.5, ge=0)
    reference_zoom: float = Field(0.82, gt=0.3, lt=2)


class Decoupler(nn.Module):
    """The part of the target's embedding that is not the identity: a learnt gate for each channel, projected.

    Only training has it; [B, dim] to [B, width].
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.project(embedding * torch.sigmoid(self.gate))


class AnyMakerObjective(InjectionObjective):
    """See the module's docstring."""

    folder = "anymaker"

    def __init__(self, config: AnyMakerTrainingConfig, init_from: str | None):
        super().__init__(config)
        self.config: AnyMakerTrainingConfig = config
        self.vit: Any = frozen(ViTMAEModel, config.vit, "self-supervised ViT", "mini-vit")
        adapter = self._adapter(config, init_from)
        self.hold(adapter)
        self.mapper, self.cross_attention = adapter.mapper, adapter.cross_attention
        self.decoupler = Decoupler(self.vit.config.hidden_size, self.unet.config["cross_attention_dim"])
        self.trained["decoupler"] = self.decoupler
        descriptors = torch.from_numpy(self.data.descriptors)
        self.mean = descriptors.mean(dim=0)
        self.reader = nn.Linear(self.vit.config.hidden_size, descriptors.shape[1])
        self.trained["reader"] = self.reader

    def _adapter(self, config: AnyMakerTrainingConfig, init_from: str | None) -> AnyMaker:
        sizes = AnyMakerConfig(
            encoders=("mini-vit-object",),
            dims=(self.vit.config.hidden_size,),
            hidden=config.hidden,
            depth=config.depth,
            output_dim=self.unet.config["cross_attention_dim"],
            mask="face",
            words=NOUNS,
        )
        if init_from:
            return started_from(AnyMaker, init_from, sizes, self.model.pipe, free=("mask", "words"))
        mapper = AnyMakerMapper(**sizes.mapper_sizes())
        attention = AnyMakerCrossAttention.from_unet(
            self.unet, copy_weights=True, layers=local_layers(self.unet)
        )
        return AnyMaker(mapper, attention, sizes)

    @property
    def networks(self) -> Mapping[str, Mapping[str, Any]]:
        return {"mini-vit-object": {"folder": self.config.vit}}

    @torch.no_grad()
    def seen(self, batch: InjectionBatch) -> Tensor:
        """What the encoder says of the references without their background, [B, n, dim]; zeros for nobody."""
        self.vit.to(batch.references.device)
        masks = [head_mask((SIDE, SIDE), points) for points in batch.reference_points.cpu().numpy()]
        inside = torch.from_numpy(np.stack(masks))[:, None].to(batch.references.device)
        tokens = all_tokens(self.vit, batch.references * inside + (1 - inside)).float()
        return tokens * batch.somebody.float()[:, None, None]

    def conditions(self, batch: InjectionBatch) -> Tensor:
        return self.mapper.mixed([self.seen(batch)])[0]

    def encode(self, batch: InjectionBatch) -> tuple[Told, Tensor]:
        """Encoded captions before anything is changed, and which of their positions hold the category word,
        float32 [B, n, 1]; none where the caption is empty."""
        text = super().encode(batch)
        places = torch.zeros(*text.text.shape[:2], 1)
        tokenizer = self.model.pipe.tokenizer
        for row, caption in enumerate(batch.texts):
            found = next((p for word in NOUNS if (p := word_rows(tokenizer, caption, word))), [])
            places[row, found] = 1
        return text, places.to(text.text.device)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: tuple[Told, Tensor],
        people: Tensor,
        extra: Tensor | None = None,
    ) -> Tensor:
        """As for the base class; ``extra`` [B, d] is added in the category word's place."""
        told, places = text
        change = self._fused(text, people) - self._word(text)
        if extra is not None:
            change = change + extra
        told = replace(told, text=told.text + places * change[:, None])
        branch = TokenBranch(self.cross_attention, self.mapper.local_tokens([people]), kernel=self.kernel)
        with cross_scope(self.unet, [branch]):
            return self.model.predict(noisy, timesteps, told)

    def _word(self, text: tuple[Told, Tensor]) -> Tensor:
        words, places = text[0].text, text[1]
        return (places * words).sum(dim=1) / places.sum(dim=1).clamp(min=1)

    def _fused(self, text: tuple[Told, Tensor], people: Tensor) -> Tensor:
        return self.mapper.global_token([people], self._word(text))

    def further(
        self, batch: InjectionBatch, step: Denoised, text: tuple[Told, Tensor]
    ) -> Mapping[str, Tensor]:
        """The decoupled branch, the orthogonality of what the two are told, and the mapper's own loss."""
        config = self.config
        seen = self.conditions(batch)
        with torch.no_grad():
            target = all_tokens(self.vit, batch.pictures)[:, 0].float()
        rest = self.decoupler(target)
        second = denoise(
            lambda noisy, timesteps: self.predict(noisy, timesteps, text, seen, rest),
            self.model.encode(batch.pictures),
            batch.timesteps,
            batch.key,
            self.model.schedule,
        )
        known = batch.somebody & text[1].any(dim=1).squeeze(1)
        # Squared: the paper's signed cosine would be smallest at opposite directions, not at orthogonal ones.
        contrast = F.cosine_similarity(self._fused(text, seen), rest).square() * known.float()
        wanted = batch.descriptors - self.mean.to(batch.descriptors)
        unread = 1 - F.cosine_similarity(self.reader(seen[:, 0]).float(), wanted)
        return {
            "decoupled": config.decoupled * second.loss(config.min_snr),
            "contrast": config.contrast * contrast.mean(),
            "unrecognised": config.recognised * (unread * batch.somebody.float()).mean(),
        }
