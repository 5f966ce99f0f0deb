"""What the training of an adapter would need, found out without a weight: models of the right sizes whose
tensors have no memory.

One forward pass of such tensors tells what would be kept of it for the backward pass, at the precision of the
recipe, with or without gradient checkpointing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from idpersona.errors import BadInput
from idpersona.pipelines.full_size import CLIP_BIGG, CLIP_L, KL_AUTOENCODER, SD15_UNET, SDXL_UNET
from idpersona.seams.checkpointing import checkpoint_blocks
from idpersona.seams.cross import cross_scope
from idpersona.seams.tokens import TokenBranch
from idpersona.training.config import Recipe, parse
from idpersona.training.data.paired import PairedPhotos
from idpersona.training.objectives.instantid import InstantIDTrainingConfig, instantid

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDES = {"sd15": 512, "sdxl": 1024}
_ANTELOPE = 512
"""Length of the embeddings of the usual encoder, where the dataset is not here to be asked."""
_WORDS = 77
_FACTOR = 8


@dataclass(frozen=True)
class Plan:
    """Of one training, in numbers of elements and bytes.

    Attributes:
        trained: name of each trained tensor -> its shape.
        frozen: part of the base -> bytes.
        state: bytes for each trained element: weight, gradient, moments of the optimiser, average.
        activations: bytes kept of a pass of one sample, and of each further one.
        rows: samples that a process computes at once.
        processes: GPUs.
    """

    trained: dict[str, tuple[int, ...]]
    frozen: dict[str, int]
    state: dict[str, float]
    activations: tuple[int, int]
    rows: int
    processes: int

    @property
    def elements(self) -> int:
        """Trained numbers."""
        return sum(_product(shape) for shape in self.trained.values())

    def memory(self, kind: str) -> int:
        """Bytes for each GPU, with ``ddp`` or ``fsdp``.

        FSDP cuts all that belongs to trained weights. The weights that it puts together to compute with are
        counted whole, in half precision: at most so much is there at once.
        """
        first, further = self.activations
        fixed = sum(self.frozen.values()) + first + further * (self.rows - 1)
        state = self.elements * sum(self.state.values())
        if kind == "fsdp":
            state = state / self.processes + 2 * self.elements
        return int(fixed + state)

    def lines(self) -> list[str]:
        """For people: what is trained, and the memory of each GPU."""
        parts: dict[str, list[int]] = {}
        for name, shape in self.trained.items():
            parts.setdefault(name.split(".")[0], []).append(_product(shape))
        told = [
            f"{name}: {len(sizes)} trained tensors, {sum(sizes) / 1e6:.1f} M" for name, sizes in parts.items()
        ]
        told.append(f"base: {_gib(sum(self.frozen.values()))} ({', '.join(map(self._frozen, self.frozen))})")
        states = ", ".join(f"{name} {size:g}" for name, size in self.state.items())
        told.append(f"bytes for each trained number: {states}")
        first, further = self.activations
        told.append(f"kept for the backward pass: {_gib(first)}, and {_gib(further)} for each further sample")
        many = f"{self.processes} x {self.rows} samples"
        told += [f"each GPU, {kind.upper()}, {many}: {_gib(self.memory(kind))}" for kind in ("ddp", "fsdp")]
        return told

    def _frozen(self, name: str) -> str:
        return f"{name} {_gib(self.frozen[name])}"


def plan(recipe: Recipe, processes: int = 1) -> Plan:
    """What ``recipe`` would need on so many GPUs.

    Models are built by their sizes: no weights are read, and none need be here. Not counted are the identity
    loss in pixels, the activations of the one block that is computed again at a time with checkpointing, and
    what CUDA itself takes (about 1 GiB).

    Raises:
        BadInput: it is no training of InstantID on ``sd15`` or ``sdxl``, or the batch cannot be shared out.
    """
    if recipe.objective.get("kind") != "instantid" or recipe.objective.get("base") not in _SIDES:
        raise BadInput(
            f"recipe {recipe.name}: plans are made of trainings of instantid on {' or '.join(_SIDES)}"
        )
    config = parse(InstantIDTrainingConfig, recipe.objective, f"recipe {recipe.name}: objective")
    rows, left = divmod(recipe.loop.batch_size, processes * recipe.loop.accumulate)
    if left or not rows:
        raise BadInput(
            f"loop.batch_size {recipe.loop.batch_size} does not divide by {processes} processes times "
            f"loop.accumulate {recipe.loop.accumulate}"
        )
    side = config.size or _SIDES[config.base]
    encoder, features = "antelopev2", _ANTELOPE
    if config.dataset and Path(config.dataset).is_dir():
        photos = PairedPhotos(config.dataset, (side, side), config.crop)
        encoder, features = photos.encoder, photos.descriptors.shape[1]
    with FakeTensorMode(allow_non_fake_inputs=True):
        base = _base(config.base, side, _DTYPES[config.base_dtype])
        adapter = instantid(config, base["unet"], encoder, features, (side, side))
        trained = {
            f"{part}.{name}": tuple(parameter.shape)
            for part, module in adapter.parts.items()
            for name, parameter in module.named_parameters()
        }
        if recipe.loop.checkpointing:
            for module in (base["unet"], adapter.identitynet):
                checkpoint_blocks(module)  # type: ignore[arg-type]
        kept = [_kept(base, adapter, recipe.loop.precision, n, side, features) for n in (1, 2)]
        frozen = {name: sum(p.numel() * p.element_size() for p in m.parameters()) for name, m in base.items()}
    moments = 2.0 if recipe.optimiser.eight_bit else 8.0
    return Plan(
        trained=trained,
        frozen=frozen,
        state={"weight": 4.0, "gradient": 4.0, "moments": moments, "average": 4.0},
        activations=(kept[0], kept[1] - kept[0]),
        rows=rows,
        processes=processes,
    )


def _base(name: str, side: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The parts of a base; only the autoencoder is in float32 whatever ``dtype`` is."""
    sizes = SDXL_UNET if name == "sdxl" else SD15_UNET
    with _default(dtype):
        parts: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(**sizes, sample_size=side // _FACTOR),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        }
        if name == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIGG))
    parts["vae"] = AutoencoderKL(**KL_AUTOENCODER)
    for part in parts.values():
        part.requires_grad_(False)
    return parts


def _kept(
    base: dict[str, nn.Module], adapter: Any, precision: str, rows: int, side: int, features: int
) -> int:
    """Bytes that a pass keeps for the way back, weights aside."""
    unet: Any = base["unet"]
    networks = [unet, *adapter.parts.values()]
    known = {_memory(p) for network in networks for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        if _memory(value) not in known:
            kept[_memory(value)] = value  # held, so that no other one gets its place
        return value

    dtype, small = unet.dtype, side // _FACTOR
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    noisy = torch.randn(rows, 4, small, small)
    timesteps = torch.zeros(rows, dtype=torch.long)
    text = torch.randn(rows, _WORDS, unet.config["cross_attention_dim"], dtype=dtype)
    added = None
    if unet.config["addition_embed_type"] == "text_time":
        width = (
            unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
        )
        pooled, times = torch.randn(rows, width, dtype=dtype), torch.randn(rows, 6, dtype=dtype)
        added = {"text_embeds": pooled, "time_ids": times}
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        torch.autocast("cpu", dtype=half, enabled=half is not None),
    ):
        people = adapter.projector(torch.randn(rows, features))
        down, mid = adapter.identitynet(
            noisy,
            timesteps,
            encoder_hidden_states=people,
            controlnet_cond=torch.randn(rows, 3, side, side),
            added_cond_kwargs=added,
            return_dict=False,
        )
        with cross_scope(unet, [TokenBranch(adapter.cross_attention, people)]):
            drawn = unet(
                noisy.to(dtype),
                timesteps,
                text,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
                return_dict=False,
            )[0]
    total = sum(value.untyped_storage().nbytes() for value in kept.values())
    del drawn
    kept.clear()
    gc.collect()
    return total


def _memory(value: Tensor) -> int:
    # Tensors without memory have no address; what stands for it is not public.
    return value.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
