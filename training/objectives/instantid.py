"""Train InstantID (arXiv:2401.07519) on a base that stays as it is: projector, cross-attention, IdentityNet.

Who it is comes from another photo of the person, where the face is from the photo that is drawn. Both go to
IdentityNet, which sees the identity tokens in the place of the text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.errors import BadInput
from idpersona.keypoints import draw_kps
from idpersona.seams.cross import cross_scope
from idpersona.seams.latent import Told
from idpersona.seams.tokens import TokenBranch
from idpersona.training.data.framing import SIDE
from idpersona.training.data.paired import Crop, PairedPhotos
from idpersona.training.objectives.diffusion_models import (
    fresh_identitynet,
    instantid_sizes,
    standardise_input,
)
from idpersona.training.objectives.injection import InjectionObjective, started_from
from idpersona.training.objectives.injection_data import (
    DatasetInjection,
    InjectionBatch,
    InjectionConfig,
    InjectionData,
)
from idpersona.training.objectives.latent_model import LatentModel
from idpersona.training.weights import channels_last


class InstantIDTrainingConfig(InjectionConfig):
    """What is trained, beside :class:`InjectionConfig`'s fields.

    Attributes:
        dataset: folder of ``idpersona dataset build``; None for the photos of the embedded model.
        size: side of the pictures; None for what the base was made for.
        crop: ``window`` or ``face``, see :class:`~idpersona.training.data.paired.PairedPhotos`.
        base_dtype: of the base, which only passes numbers on.
        tokens: that a face becomes; 16 as published, 4 for the embedded model.
        width, depth: of the projector; 1280 and 4 as published, 192 and 2 for the embedded model.
    """

    kind: Literal["instantid"]
    dataset: str | None = None
    size: int | None = Field(None, ge=64)
    crop: Crop = "window"
    base_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    tokens: int = Field(4, ge=1)
    width: int = Field(192, ge=64, multiple_of=64)
    depth: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _own_photos(self) -> Self:
        if self.dataset is None and (self.size is not None or self.crop != "window"):
            raise ValueError("size and crop are of a dataset: name one")
        if self.dataset is not None and self.labeler is not None:
            raise ValueError("a dataset has captions of its own: leave labeler out")
        return self


class InstantIDObjective(InjectionObjective):
    """See the module's docstring."""

    folder = "instantid"
    places_faces = True

    def __init__(self, config: InstantIDTrainingConfig, init_from: str | None):
        self.config: InstantIDTrainingConfig = config
        super().__init__(config)
        if config.face_descriptor and config.drawn and self.data.encoder != config.face_descriptor:
            raise BadInput(
                f"objective.drawn: people are told by {self.data.encoder}, while face_descriptor reads "
                f"{config.face_descriptor}'s: set drawn to 0"
            )
        features, factor = self.data.descriptors.shape[1], self.model.pipe.vae_scale_factor
        adapter = instantid(config, self.unet, self.data.encoder, features, self.model.size, factor)
        if init_from:
            # Sizes of the projector do not follow from the recipe; they are those of what is there.
            free = (*adapter.config.projector_sizes(), *_FREE)
            adapter = started_from(InstantID, init_from, adapter.config, self.model.pipe, free=free)
            adapter.identitynet = adapter.identitynet or fresh_identitynet(self.unet, factor)
        else:
            standardise_input(adapter.projector.proj_in, self.data.descriptors)
        identitynet: Any = adapter.identitynet
        channels_last(identitynet)
        self.hold(adapter.to(dtype=torch.float32))

    def open(self) -> LatentModel:
        config = self.config
        side = None if config.size is None else (config.size, config.size)
        return LatentModel.open(config.base, side, config.base_dtype)

    def samples(self) -> InjectionData:
        config, schedule = self.config, self.model.schedule
        if config.dataset is None:
            return super().samples()
        return DatasetInjection(
            config, schedule.timesteps, PairedPhotos(config.dataset, self.model.size, config.crop)
        )

    def conditions(self, batch: InjectionBatch) -> Tensor:
        adapter: Any = self.adapter
        return adapter.projector(batch.descriptors * batch.somebody[:, None])

    def encode(self, batch: InjectionBatch) -> tuple[Told, Tensor]:
        """Encoded captions, and IdentityNet's drawings float32 [B, 3, H, W] in 0..1."""
        sizes: Any = self.adapter.config
        style = {"radius": sizes.kps_radius, "stick_width": sizes.kps_stick_width}
        drawn = np.stack(
            [np.asarray(draw_kps(self.model.size, points, **style)) for points in batch.points.cpu().numpy()]
        )
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


_FREE = ("framing", "framing_freedom", "resize_max_side", "resize_min_side", "resize_multiple")
"""Fields of the configuration that say how pictures are asked for, not how they are trained."""


def instantid(
    config: InstantIDTrainingConfig,
    unet: Any,
    encoder: str,
    features: int,
    size: tuple[int, int],
    factor: int = 8,
) -> InstantID:
    """A fresh adapter for ``unet``; cross-attention and IdentityNet start as the base's own layers.

    Args:
        encoder, features: who tells of people, and by how many numbers.
        size: width and height of the pictures.
        factor: pixels to a latent, along a side.
    """
    width = unet.config["cross_attention_dim"]
    if size == (SIDE, SIDE):
        sizes = instantid_sizes(config.tokens, width)
    else:
        # As published for pictures of 1024 pixels, in proportion.
        side = min(size)
        sizes = InstantIDConfig(
            output_dim=width,
            kps_radius=max(3, round(10 * side / 1024)),
            kps_stick_width=max(1, round(4 * side / 1024)),
            resize_max_side=round(1.25 * side / 64) * 64,
            resize_min_side=side,
        )
    sizes = replace(
        sizes,
        encoder=encoder,
        embedding_dim=features,
        num_tokens=config.tokens,
        dim=config.width,
        depth=config.depth,
        heads=config.width // sizes.dim_head,
    )
    projector = InstantIDProjector(**sizes.projector_sizes())
    attention = IdentityCrossAttention.from_unet(unet, copy_weights=True)
    return InstantID(projector, attention, fresh_identitynet(unet, factor), sizes)
