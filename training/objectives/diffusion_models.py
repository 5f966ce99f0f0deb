"""The models that ``diffusion.py`` trains: the embedded base and InstantID on it, all in stock classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.seams.cross import cross_scope
from idpersona.seams.tokens import TokenBranch
from idpersona.training.data.framing import EYE_DISTANCE, EYE_LINE
from idpersona.training.objectives.diffusion_data import (
    KPS_RADIUS,
    KPS_STICK_WIDTH,
    DiffusionBatch,
    DiffusionData,
)

if TYPE_CHECKING:
    from idpersona.training.objectives.diffusion import DiffusionConfig


@dataclass(frozen=True)
class DiffusionModels:
    """The trained parts of the base, and its tokenizer."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


def build_models(config: DiffusionConfig, data: DiffusionData, init_from: str | None) -> DiffusionModels:
    """Fresh models of the configured size, or those of the pipeline folder ``<init_from>/base``."""
    if init_from:
        base = Path(init_from) / "base"
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
        tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        data.tokenizer = tokenizer
        return DiffusionModels(_channels_last(unet), text_encoder, tokenizer)
    depth = len(config.channels)
    vae = AutoencoderTiny.load_config(config.vae)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=vae["latent_channels"],
        out_channels=vae["latent_channels"],
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth,
        cross_attention_dim=config.text_width,
        attention_head_dim=tuple(c // 32 for c in config.channels),
        use_linear_projection=True,
    )
    tokenizer = data.tokenizer
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=config.text_width * 3,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_width // 32,
            max_position_embeddings=config.prompt_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attention_dropout=0.0,
        )
    )
    return DiffusionModels(_channels_last(unet), text_encoder, tokenizer)


@dataclass(frozen=True)
class IdentityModels:
    """InstantID's three trained parts, and how a batch runs through them."""

    config: InstantIDConfig
    projector: InstantIDProjector
    cross_attention: IdentityCrossAttention
    identitynet: ControlNetModel

    def parts(self) -> Mapping[str, nn.Module]:
        return {
            "projector": self.projector,
            "cross_attention": self.cross_attention,
            "identitynet": self.identitynet,
        }

    def predict(self, module: Any, noisy: Tensor, context: Tensor, batch: DiffusionBatch) -> Tensor:
        """The base's prediction where the first ``batch.people`` rows see their person, the others do not."""
        people = batch.people
        tokens = module["projector"](batch.descriptors)
        down, mid = module["identitynet"](
            noisy[:people],
            batch.timesteps[:people],
            encoder_hidden_states=tokens,
            controlnet_cond=batch.drawings,
            return_dict=False,
        )
        rest = len(noisy) - people
        gate = (torch.arange(len(noisy)) < people).float()
        branch = TokenBranch(module["cross_attention"], _pad_rows(tokens, rest), scale=gate)
        unet = module["unet"]
        with cross_scope(getattr(unet, "module", unet), [branch]):
            return unet(
                noisy,
                batch.timesteps,
                context,
                down_block_additional_residuals=tuple(_pad_rows(r, rest) for r in down),
                mid_block_additional_residual=_pad_rows(mid, rest),
                return_dict=False,
            )[0]


def build_identity(config: DiffusionConfig, models: DiffusionModels, init_from: str | None) -> IdentityModels:
    """Fresh parts for the base (cross-attention and IdentityNet start from the base's own weights), or the
    adapter folder ``<init_from>/instantid`` where there is one."""
    folder = Path(init_from) / "instantid" if init_from else None
    sizes = InstantIDConfig(
        encoder="dlib",
        embedding_dim=128,
        dim=192,
        depth=2,
        dim_head=32,
        heads=6,
        num_tokens=config.tokens,
        output_dim=config.text_width,
        framing=(EYE_DISTANCE, EYE_LINE),
        framing_freedom=(0.75, 1.2, 0.12),
        kps_radius=KPS_RADIUS,
        kps_stick_width=KPS_STICK_WIDTH,
        resize_max_side=128,
        resize_min_side=128,
        resize_multiple=8,
    )
    if folder and folder.is_dir():
        return IdentityModels(
            sizes,
            InstantIDProjector.from_pretrained(folder / "projector"),
            IdentityCrossAttention.from_pretrained(folder / "cross_attention"),
            _channels_last(ControlNetModel.from_pretrained(folder / "identitynet")),
        )
    return IdentityModels(
        sizes,
        InstantIDProjector(**sizes.projector_sizes()),
        IdentityCrossAttention.from_unet(models.unet, copy_weights=True),
        _channels_last(
            ControlNetModel.from_unet(
                models.unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 16, 32, 64)
            )
        ),
    )


def export_models(
    models: DiffusionModels, vae_folder: str, schedule: Mapping[str, Any], folder: Path
) -> None:
    """A stock ``StableDiffusionPipeline`` folder."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(vae_folder),
        text_encoder=models.text_encoder,
        tokenizer=models.tokenizer,
        unet=models.unet,
        scheduler=DDIMScheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)


def export_identity(identity: IdentityModels, folder: Path) -> None:
    """The adapter folder that ``load_adapter`` reads."""
    adapter = InstantID(identity.projector, identity.cross_attention, identity.identitynet, identity.config)
    adapter.save_pretrained(folder)


def _pad_rows(value: Tensor, rows: int) -> Tensor:
    return torch.cat([value, value.new_zeros(rows, *value.shape[1:])]) if rows else value


def _channels_last(model: Any) -> Any:
    return model.to(memory_format=torch.channels_last)
