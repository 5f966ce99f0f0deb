"""Devices and number types by name."""

from __future__ import annotations

import torch

from idpersona.errors import BadInput, UnknownName

_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def as_device(device: str | torch.device | None) -> torch.device:
    """A device on which a tensor can really be made; None is the CPU.

    Raises:
        BadInput: there is no such device here.
    """
    try:
        place = torch.device(device or "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"device '{device}' cannot be used: {reason.rstrip('.: ')[:160]}") from error
    return place


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """``fp32``, ``fp16``, ``bf16`` (or their long names) as a torch type; None stays None.

    Raises:
        UnknownName: none of these; the nearest are offered.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UnknownName("dtype", dtype, _DTYPES)
    return _DTYPES[dtype]


def best_device() -> str:
    """``cuda``, ``mps`` or ``cpu``: the fastest that works here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
