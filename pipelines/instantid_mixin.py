"""What InstantID adds to a stock ControlNet pipeline, whatever its base.

Paper: InstantID: Zero-shot Identity-Preserving Generation in Seconds (arXiv:2401.07519).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.image_processor import PipelineImageInput
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from torch import Tensor, nn

from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.adapters.instantid.convert import Published, read_published
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.errors import BadInput, CheckpointError
from idpersona.pipelines.identitynet import identity_context
from idpersona.seams.cross import cross_layers, cross_scope
from idpersona.seams.mask import as_mask
from idpersona.seams.scale import check_scale
from idpersona.seams.tokens import TokenBranch

Images = PipelineImageInput
NetInput = ControlNetModel | list[ControlNetModel] | tuple[ControlNetModel] | MultiControlNetModel
StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]

PARTS = ("projector", "cross_attention")
_DEPRECATED = ("callback", "callback_steps")
"""What diffusers itself still takes beside its signature; it ignores everything else."""


class LateComponents:
    """``_optional_components`` of a pipeline whose adapter may be loaded after the base.

    diffusers asks the class which components a checkpoint may lack, and an instance which of its own it
    can do without. The adapter's parts may be lacking, but once loaded no identity is drawn without them.
    """

    def __init__(self, stock: Sequence[str]):
        self.stock = list(stock)

    def __get__(self, pipe: Any, owner: type | None = None) -> list[str]:
        return self.stock + [name for name in PARTS if pipe is None or vars(pipe).get(name) is None]


class InstantIDMixin:
    """Loading, scale and identity of an InstantID pipeline; mixed into diffusers' ControlNet pipelines."""

    projector: InstantIDProjector | None
    cross_attention: IdentityCrossAttention | None
    controlnet: Any
    unet: Any
    identity_scale: float
    identity_net: int

    def load_ip_adapter_instantid(
        self,
        model_ckpt: str | os.PathLike[str],
        image_emb_dim: int | None = None,
        num_tokens: int | None = None,
        scale: float = 0.5,
    ) -> None:
        """Load projector and identity cross-attention.

        Args:
            model_ckpt: ``ip-adapter.bin`` or another file or folder of a published layout, or a folder of an
                adapter of ours. A file may hold one of the two parts; what is loaded of the other then stays.
                Pickles are read with ``weights_only=True``. IdentityNet is not loaded: it is a component.
            image_emb_dim: length of a face vector; read from the checkpoint, checked if given.
            num_tokens: identity tokens; read from the checkpoint, checked if given.
            scale: of the identity cross-attention, at least 0.

        Raises:
            CheckpointError: keys are missing, unexpected or misshapen (the first three are named), or do not
                fit the UNet.
            BadInput: ``image_emb_dim`` or ``num_tokens`` is not what the checkpoint holds.
        """
        identity_scale = check_scale(scale)
        found = _read(Path(model_ckpt), self.unet)
        projector = found.projector or self.projector
        cross_attention = found.cross_attention or self.cross_attention
        if projector is not None:
            asked = {"embedding_dim": image_emb_dim, "num_tokens": num_tokens}
            for name, value in asked.items():
                held = projector.config[name]
                if value not in (None, held):
                    raise BadInput(f"{model_ckpt} was made for {name} {held}, not {value}")
        if projector is not None and cross_attention is not None:
            _check_fit(projector, cross_attention, self.unet)
        parts: dict[str, Any] = {"projector": projector, "cross_attention": cross_attention}
        # While the UNet is offloaded piece by piece it has no device; a call brings these parts to its own.
        device = "cpu" if self.unet.device.type == "meta" else self.unet.device
        for part in parts.values():
            if part is not None and not _is_offloaded(part):
                # diffusers' own ``to`` warns about layers it would keep in float32; these parts have none.
                nn.Module.to(part, device=device, dtype=self.unet.dtype).eval()
        self.register_modules(**parts)  # type: ignore[attr-defined]
        self.identity_scale = identity_scale

    def set_ip_adapter_scale(self, scale: Any) -> None:
        """Set the scale of the identity cross-attention, a number of at least 0 (also ``identity_scale``).

        While a plain IP-Adapter is loaded (``load_ip_adapter``), this sets that one's scale, as in diffusers.
        """
        if getattr(self.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj":
            super().set_ip_adapter_scale(scale)  # type: ignore[misc]
        else:
            self.identity_scale = check_scale(scale)

    def cuda(self, dtype: torch.dtype = torch.float16, use_xformers: bool = False) -> Self:
        """Move everything to the GPU in ``dtype``, as scripts for the published pipeline ask for it."""
        pipe: Any = self
        pipe.to("cuda", dtype)
        if use_xformers:
            pipe.enable_xformers_memory_efficient_attention()
        return self

    @property
    def image_proj_model(self) -> InstantIDProjector | None:
        """The projector, by its name in the published pipeline."""
        return self.projector

    def _call_with_identity(self, stock: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """``stock``, the call of diffusers' pipeline, with its share of the arguments that ours was given."""
        unknown = [name for name in given["kwargs"] if name not in _DEPRECATED]
        if unknown:
            raise BadInput(f"{type(self).__name__} takes no argument {', '.join(unknown)}")
        ours = ("image_embeds", "ip_adapter_scale", "control_mask")
        rest = {name: given[name] for name in given if name not in (*ours, "self", "__class__", "kwargs")}
        prompts = count_prompts(given["prompt"], given["prompt_embeds"])
        with self._identity(*(given[name] for name in ours), prompts=prompts):
            return stock(**rest, **given["kwargs"])

    @contextlib.contextmanager
    def _identity(
        self, image_embeds: Any, ip_adapter_scale: Any, control_mask: Any, *, prompts: int
    ) -> Iterator[None]:
        """Put the person into UNet and IdentityNet for the length of one call."""
        if ip_adapter_scale is not None:
            self.identity_scale = check_scale(ip_adapter_scale, "ip_adapter_scale")
        if self.projector is None or self.cross_attention is None:
            raise BadInput("no identity adapter is loaded: call load_ip_adapter_instantid(path) first")
        width = self.projector.config["embedding_dim"]
        faces = face_vectors(image_embeds, width, prompts)
        device, dtype = self._execution_device, self.unet.dtype  # type: ignore[attr-defined]
        for part in (self.projector, self.cross_attention):
            if not _is_offloaded(part):
                nn.Module.to(part, device=device)
        faces = faces.to(device=device, dtype=self.projector.dtype)
        # The unconditional half is the projector's answer to nobody, not a row of zeros.
        tokens = self.projector(torch.cat([torch.zeros_like(faces[:1]), faces])).to(dtype)
        nobody, people = tokens[:1], tokens[1:]
        mask = None if control_mask is None else as_mask(control_mask).to(device)
        branch = TokenBranch(
            self.cross_attention, people, unconditional=nobody, scale=self.identity_scale, mask=mask
        )
        net = identity_net(self.controlnet, self.identity_net)
        with (
            identity_context(net, self, people, nobody, mask=mask),
            cross_scope(self.unet, [branch], pipe=self),
        ):
            yield


def identity_net(controlnet: nn.Module, place: int) -> nn.Module:
    """Which of a pipeline's ControlNets is IdentityNet; the others keep the text.

    Raises:
        BadInput: there is none at that place.
    """
    nets: Sequence[nn.Module] = getattr(controlnet, "nets", [controlnet])  # type: ignore[assignment]
    if not 0 <= place < len(nets):
        raise BadInput(f"identity_net is {place}, but there are {len(nets)} ControlNets, counted from 0")
    return nets[place]


def _is_offloaded(part: nn.Module) -> bool:
    """Whether accelerate or diffusers moves the part's weights to and fro, so that nobody else may."""
    return hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook")


def _read(path: Path, unet: nn.Module) -> Published:
    if (path / "adapter.json").is_file():
        return InstantID.from_pretrained(path).published()
    return read_published(path, layers=cross_layers(unet))


def _check_fit(
    projector: InstantIDProjector, cross_attention: IdentityCrossAttention, unet: nn.Module
) -> None:
    sizes = {name: projector.config[name] for name in InstantIDConfig().projector_sizes()}
    InstantID(projector, cross_attention, config=InstantIDConfig(**sizes)).check_fits(unet)
    widths = {width for _, width in cross_attention.config["geometry"].values()}
    if widths != {sizes["output_dim"]}:
        raise CheckpointError(
            f"the projector gives tokens of width {sizes['output_dim']}, the cross-attention takes {widths}"
        )


def face_vectors(image_embeds: Any, width: int, prompts: int) -> Tensor:
    """Face vectors as float32 [people, photos, width]; people is 1 or ``prompts``.

    [width] and [photos, width] are one person for all prompts; [prompts, photos, width] is a person for each
    prompt. With one prompt, all vectors count as photos of one person, whatever their grouping.

    Raises:
        BadInput: not given, of another width, or not finite.
    """
    if image_embeds is None:
        raise BadInput("image_embeds is needed: the face vector of the person to draw")
    try:
        if isinstance(image_embeds, (list, tuple)):
            vectors = torch.stack([torch.as_tensor(one).float() for one in image_embeds])
        else:
            vectors = torch.as_tensor(image_embeds).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"image_embeds must be numbers of shape [photos, {width}]: {error}") from error
    if vectors.ndim not in (1, 2, 3) or vectors.shape[-1] != width or not vectors.numel():
        raise BadInput(f"image_embeds must be of shape [photos, {width}], got {tuple(vectors.shape)}")
    if not bool(torch.isfinite(vectors).all()):
        raise BadInput("image_embeds holds a value that is not finite")
    if vectors.ndim == 3 and prompts > 1 and vectors.shape[0] > 1:
        if vectors.shape[0] != prompts:
            raise BadInput(f"image_embeds holds {vectors.shape[0]} people for {prompts} prompts")
        return vectors
    return vectors.reshape(1, -1, width)


def count_prompts(prompt: str | list[str] | None, prompt_embeds: Tensor | None) -> int:
    """Number of prompts in a call, before ``num_images_per_prompt``."""
    if isinstance(prompt, list):
        return len(prompt)
    return 1 if prompt_embeds is None or prompt is not None else prompt_embeds.shape[0]
