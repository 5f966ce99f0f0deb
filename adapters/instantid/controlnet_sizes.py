"""The configuration of a ControlNet that was published as bare tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from idpersona.errors import CheckpointError


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return len([number for number in numbers if number.isdigit()])


def controlnet_config(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Sizes of a ``ControlNetModel`` from its tensors.

    The number of heads leaves no trace in them: 8 as in SD1.5, or one per 64 channels where the net takes
    SDXL's additional text and size embedding.

    Raises:
        CheckpointError: a tensor that every ControlNet has is missing; it is named.
    """
    blocks = _count(state, "down_blocks.")
    needed = [
        "conv_in.weight",
        "controlnet_cond_embedding.conv_in.weight",
        "mid_block.resnets.0.conv1.weight",
    ]
    needed += [f"down_blocks.{i}.resnets.0.conv1.weight" for i in range(max(blocks, 1))]
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointError.from_keys(where, missing)
    channels = [state[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(blocks)]
    depths = [_count(state, f"down_blocks.{i}.attentions.0.transformer_blocks.") for i in range(blocks)]
    context = next((v.shape[1] for k, v in state.items() if k.endswith("attn2.to_k.weight")), None)
    if context is None:
        raise CheckpointError.from_keys(
            where, ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
        )
    condition = [state["controlnet_cond_embedding.conv_in.weight"].shape[0]]
    prefix = "controlnet_cond_embedding.blocks."
    condition += [state[f"{prefix}{i}.weight"].shape[0] for i in range(1, _count(state, prefix), 2)]
    linear = [v.ndim == 2 for k, v in state.items() if k.endswith("attentions.0.proj_in.weight")]
    config: dict[str, Any] = {
        "in_channels": state["conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": _count(state, "down_blocks.0.resnets."),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "use_linear_projection": any(linear),
        "conditioning_embedding_out_channels": condition,
    }
    if "add_embedding.linear_1.weight" in state:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": state["add_embedding.linear_1.weight"].shape[1],
            "attention_head_dim": [max(c // 64, 1) for c in channels],
        }
    return config
