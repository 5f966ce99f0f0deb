"""InstantID on SDXL, starting from a picture instead of noise."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl_img2img import (
    StableDiffusionXLControlNetImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_output import StableDiffusionXLPipelineOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.errors import BadInput
from idpersona.pipelines.instantid_mixin import InstantIDMixin, LateComponents, NetInput, count_prompts


class StableDiffusionXLInstantIDImg2ImgPipeline(InstantIDMixin, StableDiffusionXLControlNetImg2ImgPipeline):
    """InstantID with SDXL, image to image.

    The components of :class:`~idpersona.pipelines.StableDiffusionXLInstantIDPipeline`; the published pipeline
    of this name draws one picture per prompt only, this one as many as are asked for.

    Args (beside those of ``StableDiffusionXLControlNetImg2ImgPipeline``):
        projector, cross_attention, identity_scale, identity_net: as there.

    Paper: InstantID: Zero-shot Identity-Preserving Generation in Seconds (arXiv:2401.07519).
    """

    model_cpu_offload_seq = "projector->" + StableDiffusionXLControlNetImg2ImgPipeline.model_cpu_offload_seq
    _optional_components = cast(
        "list[str]", LateComponents(StableDiffusionXLControlNetImg2ImgPipeline._optional_components)
    )

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: NetInput,
        scheduler: KarrasDiffusionSchedulers,
        requires_aesthetics_score: bool = False,
        force_zeros_for_empty_prompt: bool = True,
        add_watermarker: bool | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        projector: InstantIDProjector | None = None,
        cross_attention: IdentityCrossAttention | None = None,
        identity_scale: float = 0.5,
        identity_net: int = 0,
    ):
        super().__init__(
            vae=vae,  # type: ignore[arg-type]
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            requires_aesthetics_score=requires_aesthetics_score,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            add_watermarker=add_watermarker,
            feature_extractor=feature_extractor,  # type: ignore[arg-type]
            image_encoder=image_encoder,  # type: ignore[arg-type]
        )
        self.register_modules(projector=projector, cross_attention=cross_attention)
        self.identity_scale, self.identity_net = identity_scale, identity_net
        self.register_to_config(identity_scale=identity_scale, identity_net=identity_net)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        *args: Any,
        image_embeds: Any = None,
        ip_adapter_scale: float | None = None,
        control_mask: Any = None,
        **kwargs: Any,
    ) -> StableDiffusionXLPipelineOutput | tuple[Any, ...]:
        """Redraw ``image`` as the person of ``image_embeds`` in the pose of ``control_image``.

        Args (beside those of ``StableDiffusionXLControlNetImg2ImgPipeline.__call__``):
            image_embeds, ip_adapter_scale, control_mask: as for ``StableDiffusionXLInstantIDPipeline``.

        Raises:
            BadInput: no adapter is loaded, an unknown argument, or ``image_embeds`` is missing, misshapen or
                not finite.
        """
        stock = super().__call__
        signature = inspect.signature(stock)
        unknown = [name for name in kwargs if name not in signature.parameters]
        if unknown:
            raise BadInput(f"{type(self).__name__} takes no argument {', '.join(unknown)}")
        given = signature.bind_partial(*args, **kwargs).arguments
        prompts = count_prompts(given.get("prompt"), given.get("prompt_embeds"))
        with self._identity(image_embeds, ip_adapter_scale, control_mask, prompts=prompts):
            return stock(*args, **kwargs)
