"""Train Infinite-ID's mappers and identity cross-attention on the embedded model (arXiv:2403.11781).

Identity-enhanced training: the text's cross-attention is taken out, and every layer sees the identity tokens
alone. Nothing else of the base changes, and no prompt has a part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from transformers import ViTMAEModel

from idpersona.adapters.infinite_id.adapter import InfiniteID
from idpersona.adapters.infinite_id.config import InfiniteIDConfig
from idpersona.adapters.infinite_id.modules import InfiniteIDCrossAttention, InfiniteIDMapper
from idpersona.attention.kernels import Kernel
from idpersona.encoders.vit import all_tokens
from idpersona.seams.cross import cross_layers
from idpersona.seams.latent import Told
from idpersona.training.objectives.diffusion_data import DESCRIPTOR
from idpersona.training.objectives.diffusion_models import standardise_input
from idpersona.training.objectives.frozen import frozen
from idpersona.training.objectives.injection import InjectionObjective, started_from
from idpersona.training.objectives.injection_data import InjectionBatch, InjectionConfig


class InfiniteIDTrainingConfig(InjectionConfig):
    """``vit``: folder of the self-supervised ViT; ``face_tokens``, ``face_hidden``: of the face mapper."""

    kind: Literal["infinite-id"]
    vit: str
    face_tokens: int = 4
    face_hidden: int = 192


class IdentityAlone:
    """The processor of a cross-attention layer that sees identity tokens instead of the text.

    Holds no weights: ``keys`` and ``values`` [B, n, C] are of one pass of the model.
    """

    def __init__(self, kernel: Kernel, keys: Tensor, values: Tensor):
        self.kernel, self.keys, self.values = kernel, keys, values

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
    ) -> Tensor:
        to_q, to_out = attn.to_q, attn.to_out
        result = self.kernel(attn, to_q(hidden_states), self.keys, self.values, None)
        return to_out[1](to_out[0](result))  # type: ignore[index]


class InfiniteIDObjective(InjectionObjective):
    """See the module's docstring."""

    folder = "infinite-id"

    def __init__(self, config: InfiniteIDTrainingConfig, init_from: str | None):
        super().__init__(config)
        self.config: InfiniteIDTrainingConfig = config
        self.vit: Any = frozen(ViTMAEModel, config.vit, "self-supervised ViT", "mini-vit")
        self.hold(self._adapter(config, init_from))
        self.layers = cross_layers(self.unet)

    @property
    def networks(self) -> Mapping[str, Mapping[str, Any]]:
        return {"mini-vit": {"folder": self.config.vit}}

    def _adapter(self, config: InfiniteIDTrainingConfig, init_from: str | None) -> InfiniteID:
        side = self.vit.config.image_size // self.vit.config.patch_size
        sizes = InfiniteIDConfig(
            image_encoder="mini-vit",
            image_tokens=side * side + 1,
            image_dim=self.vit.config.hidden_size,
            face_encoder="dlib",
            face_dim=DESCRIPTOR,
            face_tokens=config.face_tokens,
            face_hidden=config.face_hidden,
            output_dim=self.unet.config["cross_attention_dim"],
        )
        if init_from:
            return started_from(
                InfiniteID, init_from, sizes, self.model.pipe, free=("style_merge", "text", "mixed")
            )
        mapper = InfiniteIDMapper(**sizes.mapper_sizes())
        standardise_input(mapper.face_mapper[0], self.data.descriptors)  # type: ignore[arg-type]
        attention = InfiniteIDCrossAttention.from_unet(self.unet, copy_weights=True)
        return InfiniteID(mapper, attention, sizes)

    def conditions(self, batch: InjectionBatch) -> Tensor:
        self.vit.to(batch.references.device)
        with torch.no_grad():
            seen = all_tokens(self.vit, batch.references).float()
        known = batch.somebody.float()
        adapter: Any = self.adapter
        return adapter.mapper(seen * known[:, None, None], batch.descriptors * known[:, None])

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Told, people: Tensor) -> Tensor:
        adapter: Any = self.adapter
        stock = {name: layer.processor for name, layer in self.layers.items()}
        for name, (keys, values) in adapter.cross_attention(people).items():
            # A new one for every pass: activations may be computed again when there has been another.
            processor: Any = IdentityAlone(self.kernel, keys, values)
            self.layers[name].set_processor(processor)
        try:
            return self.model.predict(noisy, timesteps, Told(people, text.pooled))
        finally:
            for name, processor in stock.items():
                self.layers[name].set_processor(processor)
