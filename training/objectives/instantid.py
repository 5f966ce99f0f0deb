"""Train InstantID (arXiv:2401.07519) on a base that stays as it is: projector, cross-attention, IdentityNet.

Who it is comes from another photo of the person, where the face is from the photo that is drawn. Both go to
IdentityNet, which sees the identity tokens in the place of the text.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.seams.cross import cross_scope
from idpersona.seams.latent import Told
from idpersona.seams.tokens import TokenBranch
from idpersona.training.objectives.diffusion_data import draw
from idpersona.training.objectives.diffusion_models import (
    fresh_identitynet,
    instantid_sizes,
    standardise_input,
)
from idpersona.training.objectives.injection import (
    InjectionBatch,
    InjectionConfig,
    InjectionObjective,
    started_from,
)
from idpersona.training.weights import channels_last


class InstantIDTrainingConfig(InjectionConfig):
    """``tokens``: that a face becomes."""

    kind: Literal["instantid"]
    tokens: int = Field(4, ge=1)


class InstantIDObjective(InjectionObjective):
    """See the module's docstring."""

    folder = "instantid"
    places_faces = True

    def __init__(self, config: InstantIDTrainingConfig, init_from: str | None):
        super().__init__(config)
        self.hold(self._adapter(config, init_from))

    def _adapter(self, config: InstantIDTrainingConfig, init_from: str | None) -> InstantID:
        sizes = instantid_sizes(config.tokens, self.unet.config["cross_attention_dim"])
        if init_from:
            # Sizes of the projector do not follow from the recipe; they are the shipped adapter's.
            adapter = started_from(
                InstantID, init_from, sizes, self.unet, free=tuple(sizes.projector_sizes())
            )
        else:
            projector = InstantIDProjector(**sizes.projector_sizes())
            standardise_input(projector.proj_in, self.data.faces.descriptors)
            attention = IdentityCrossAttention.from_unet(self.unet, copy_weights=True)
            adapter = InstantID(projector, attention, None, sizes)
        adapter.identitynet = channels_last(adapter.identitynet or fresh_identitynet(self.unet))
        return adapter

    def conditions(self, batch: InjectionBatch) -> Tensor:
        adapter: Any = self.adapter
        return adapter.projector(batch.descriptors * batch.somebody[:, None])

    def encode(self, batch: InjectionBatch) -> tuple[Told, Tensor]:
        """Encoded captions, and IdentityNet's drawings float32 [B, 3, H, W] in 0..1."""
        drawn = np.stack([draw(points) for points in batch.points.cpu().numpy()])
        drawings = torch.from_numpy(drawn).permute(0, 3, 1, 2).to(batch.pictures.device).float().div(255)
        return super().encode(batch), drawings

    def predict(self, noisy: Tensor, timesteps: Tensor, text: tuple[Told, Tensor], people: Tensor) -> Tensor:
        adapter: Any = self.adapter
        captions, drawings = text
        down, mid = adapter.identitynet(
            noisy,
            timesteps,
            encoder_hidden_states=people,
            controlnet_cond=drawings,
            added_cond_kwargs=self.model.added(captions),
            return_dict=False,
        )
        branch = TokenBranch(adapter.cross_attention, people, kernel=self.kernel)
        with cross_scope(self.unet, [branch]):
            return self.model.predict(
                noisy,
                timesteps,
                captions,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            )
