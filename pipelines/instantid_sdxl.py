"""InstantID on SDXL."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_output import StableDiffusionXLPipelineOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.pipelines.instantid_mixin import (
    Images,
    InstantIDMixin,
    LateComponents,
    NetInput,
    StepCallback,
)


class StableDiffusionXLInstantIDPipeline(InstantIDMixin, StableDiffusionXLControlNetPipeline):
    """InstantID with SDXL.

    A drop-in for the published InstantID pipeline: the components of diffusers'
    ``StableDiffusionXLControlNetPipeline``, whose ``controlnet`` is IdentityNet, plus the adapter's two,
    which ``load_ip_adapter_instantid`` fills and ``save_pretrained`` keeps. Of several ControlNets one is
    IdentityNet and sees the identity tokens; the others see the text. Outside a call the components are
    untouched.

    Args (beside those of ``StableDiffusionXLControlNetPipeline``):
        projector: face vector -> identity tokens.
        cross_attention: keys and values of the tokens for every cross-attention layer.
        identity_scale: scale of the identity cross-attention, at least 0.
        identity_net: which of several ControlNets is IdentityNet, counted from 0.

    Paper: InstantID: Zero-shot Identity-Preserving Generation in Seconds (arXiv:2401.07519).
    """

    model_cpu_offload_seq = "projector->" + StableDiffusionXLControlNetPipeline.model_cpu_offload_seq
    _optional_components = cast(
        "list[str]", LateComponents(StableDiffusionXLControlNetPipeline._optional_components)
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
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            add_watermarker=add_watermarker,
            feature_extractor=feature_extractor,  # type: ignore[arg-type]
            image_encoder=image_encoder,  # type: ignore[arg-type]
        )
        self.register_modules(projector=projector, cross_attention=cross_attention)
        self.identity_scale, self.identity_net = identity_scale, identity_net
        self.register_to_config(identity_scale=identity_scale, identity_net=identity_net)

    # Positional arguments come in the published pipeline's order, not in that of today's diffusers.
    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        image: Images | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        image_embeds: Any = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        controlnet_conditioning_scale: float | list[float] = 1.0,
        guess_mode: bool = False,
        control_guidance_start: float | list[float] = 0.0,
        control_guidance_end: float | list[float] = 1.0,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        negative_original_size: tuple[int, int] | None = None,
        negative_crops_coords_top_left: tuple[int, int] = (0, 0),
        negative_target_size: tuple[int, int] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' own default
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        denoising_end: float | None = None,
        ip_adapter_image: Images | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        ip_adapter_scale: float | None = None,
        control_mask: Any = None,
        **kwargs: Any,
    ) -> StableDiffusionXLPipelineOutput | tuple[Any, ...]:
        """Draw the person of ``image_embeds`` in the pose of ``image``, as the prompt says.

        Args (beside those of ``StableDiffusionXLControlNetPipeline.__call__``, which mean the same here):
            image: the keypoint picture (``draw_kps``): PIL, array or tensor in [0, 1], or one per prompt; it
                gives the size unless ``height`` and ``width`` are given.
            image_embeds: the person's un-normalised face vector, [dim] or [photos, dim]; or
                [prompts, photos, dim], a person per prompt. Array, tensor or list of them.
            controlnet_conditioning_scale: scale of IdentityNet (a list: of each ControlNet).
            guess_mode: IdentityNet acts on the conditional half only.
            control_guidance_start, control_guidance_end: fractions of the steps between which it acts.
            ip_adapter_scale: sets ``identity_scale``, for this call and the next ones.
            control_mask: where on the canvas identity and IdentityNet may act, a picture or [H, W] in 0..1
                (several: one per person).
            callback_on_step_end: ``f(pipe, step, timestep, tensors) -> dict``, after every step.

        Returns:
            ``StableDiffusionXLPipelineOutput``, or a tuple if not ``return_dict``.

        Raises:
            BadInput: no adapter is loaded, or ``image_embeds`` is missing, misshapen or not finite.
        """
        return self._call_with_identity(super().__call__, dict(locals()))
