"""LoRAs (arXiv:2106.09685) that peft puts into a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers

from idpersona.errors import BadInput, MissingWeights


def require_peft() -> None:
    """Raise MissingWeights, saying what to install, where peft is not here; asked before long work begins."""
    try:
        import peft  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingWeights("training a LoRA needs peft: pip install 'idpersona[train]'") from error


def add_lora(unet: Any, rank: int, targets: Sequence[str]) -> None:
    """Put a LoRA into the layers of ``unet`` whose names end in one of ``targets``; it adds nothing yet.

    Raises:
        BadInput: one of them is no layer's name.
    """
    from peft import LoraConfig

    names = [f".{name}" for name, _ in unet.named_modules()]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise BadInput(f"objective.targets: no layer of the U-Net is called {target}")

    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))


def save_lora(pipeline: type[Any], unet: Any, folder: Path) -> None:
    """Write the LoRA of ``unet`` as ``pytorch_lora_weights.safetensors``, which ``pipeline`` reads by its
    ``load_lora_weights``."""
    from peft.utils import get_peft_model_state_dict

    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    pipeline.save_lora_weights(folder, unet_lora_layers=state)
