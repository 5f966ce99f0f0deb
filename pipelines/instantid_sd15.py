"""InstantID on Stable Diffusion 1.x and its family, ``mini`` among them."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.stable_diffusion.pipeline_output import StableDiffusionPipelineOutput
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
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


class StableDiffusionInstantIDPipeline(InstantIDMixin, StableDiffusionControlNetPipeline):
    """InstantID with Stable Diffusion 1.x (community weights, ``mini``).

    A drop-in for ``StableDiffusionXLInstantIDPipeline`` on smaller bases: the components of diffusers'
    ``StableDiffusionControlNetPipeline``, whose ``controlnet`` is IdentityNet, plus the adapter's two,
    which ``load_ip_adapter_instantid`` fills and ``save_pretrained`` keeps. Of several ControlNets one is
    IdentityNet and sees the identity tokens; the others see the text. Outside a call the components are
    untouched.

    Args (beside those of ``StableDiffusionControlNetPipeline``):
        projector: face vector -> identity tokens.
        cross_attention: keys and values of the tokens for every cross-attention layer.
        identity_scale: scale of the identity cross-attention, at least 0.
        identity_net: which of several ControlNets is IdentityNet, counted from 0.

    Paper: InstantID: Zero-shot Identity-Preserving Generation in Seconds (arXiv:2401.07519).
    """

    model_cpu_offload_seq = "projector->" + StableDiffusionControlNetPipeline.model_cpu_offload_seq
    _optional_components = cast(
        "list[str]", LateComponents(StableDiffusionControlNetPipeline._optional_components)
    )

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: NetInput,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker | None,
        feature_extractor: CLIPImageProcessor | None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        requires_safety_checker: bool = True,
        projector: InstantIDProjector | None = None,
        cross_attention: IdentityCrossAttention | None = None,
        identity_scale: float = 0.5,
        identity_net: int = 0,
    ):
        super().__init__(
            vae=vae,  # type: ignore[arg-type]
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            safety_checker=safety_checker,  # type: ignore[arg-type]
            feature_extractor=feature_extractor,  # type: ignore[arg-type]
            image_encoder=image_encoder,  # type: ignore[arg-type]
            requires_safety_checker=requires_safety_checker,
        )
        self.register_modules(projector=projector, cross_attention=cross_attention)
        self.identity_scale, self.identity_net = identity_scale, identity_net
        self.register_to_config(identity_scale=identity_scale, identity_net=identity_net)

    # diffusers annotates its own step callback too narrowly.
    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Images | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 5.0,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: Images | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        controlnet_conditioning_scale: float | list[float] = 1.0,
        guess_mode: bool = False,
        control_guidance_start: float | list[float] = 0.0,
        control_guidance_end: float | list[float] = 1.0,
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' own default
        image_embeds: Any = None,
        ip_adapter_scale: float | None = None,
        control_mask: Any = None,
        **kwargs: Any,
    ) -> StableDiffusionPipelineOutput | tuple[Any, ...]:
        """Draw the person of ``image_embeds`` in the pose of ``image``, as the prompt says.

        Args (beside those of ``StableDiffusionControlNetPipeline.__call__``, which mean the same here):
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
            ``StableDiffusionPipelineOutput``, or a tuple if not ``return_dict``.

        Raises:
            BadInput: no adapter is loaded, or ``image_embeds`` is missing, misshapen or not finite.
        """
        return self._call_with_identity(super().__call__, dict(locals()))
