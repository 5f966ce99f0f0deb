"""The inversion record: where a photo starts in the model's noise, and what it takes to come back from there.

One record is edited many times. Its file is safetensors: tensors ``latents``, perhaps ``unconditional`` and
``noises``; header metadata ``format`` = ``idpersona.inversion``, ``version``, and ``inversion``, a JSON
object with the other fields. It shows the photo to anyone who has the model.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from idpersona.errors import BadInput, first_line
from idpersona.images import atomic_output

FORMAT, VERSION = "idpersona.inversion", 1
_TENSORS = ("latents", "unconditional", "noises")


class InversionError(BadInput):
    """An inversion file is damaged, or was made by another model, prompt or number of steps."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """B photos of one size, inverted in T steps.

    Attributes:
        method: name of the inversion, as ``direct``.
        prompts: what each photo shows, in words; B of them.
        latents: float32 or float64 [T + 1, B, C, h, w], from the photo (0) to the noise (T): the
            pivots. Methods that keep two coupled latents (``edict``) have [T + 1, 2 B, C, h, w]; those of
            ``ledits`` were noised at random, each by itself.
        unconditional: float32 [T, B, tokens, dim], what the unconditional rows are told at each step of
            denoising, from the noise (0) on; None where the negative prompt stays.
        noises: float32 [T, B, C, h, w] that each step of denoising adds, from the noise (0) on (``ledits``);
            else None.
        guidance: scale that it was made for, and is edited with.
        scheduler: configuration of the DDIM scheduler.
        options: of the method.
        model: fingerprint of the pipeline, :func:`model_fingerprint`.
        passes: of the U-Net that it took, for one photo; a backward pass counts two.
        attached: adapters were attached to the pipeline, and have to be for an edit.
    """

    method: str
    prompts: tuple[str, ...]
    latents: Tensor
    guidance: float
    scheduler: Mapping[str, Any]
    model: str
    unconditional: Tensor | None = None
    noises: Tensor | None = None
    options: Mapping[str, Any] | None = None
    passes: int = 0
    attached: bool = False

    def __post_init__(self) -> None:
        if self.latents.ndim != 5 or len(self.latents) < 2 or not self.prompts:
            raise InversionError(
                f"latents must be [steps + 1, photos, C, h, w], not {list(self.latents.shape)}"
            )
        if self.latents.shape[1] % len(self.prompts):
            raise InversionError(f"{self.latents.shape[1]} latents for {len(self.prompts)} prompts")
        if self.unconditional is not None and self.unconditional.shape[1] != self.photos:
            raise InversionError(f"embeddings for {self.unconditional.shape[1]} photos, not {self.photos}")
        if self.noises is not None and self.noises.shape[1:] != self.latents.shape[1:]:
            raise InversionError(
                f"noises {list(self.noises.shape[1:])} do not fit latents {list(self.latents.shape[1:])}"
            )
        if not all(prompt.isprintable() for prompt in self.prompts) or not math.isfinite(self.guidance):
            raise InversionError("its prompts hold control characters, or its guidance is no number")
        for name in _TENSORS:
            value = getattr(self, name)
            if value is not None and not bool(torch.isfinite(value).all()):
                raise InversionError(f"{name} of the inversion hold numbers that are not finite")
            if value is not None and name != "latents" and len(value) != self.steps:
                raise InversionError(f"{name} of the inversion have {len(value)} steps, not {self.steps}")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.latents) - 1

    @property
    def photos(self) -> int:
        """B."""
        return len(self.prompts)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return int(self.latents.shape[-2]), int(self.latents.shape[-1])

    def check(
        self,
        *,
        model: str | None = None,
        prompts: tuple[str, ...] | None = None,
        steps: int | None = None,
    ) -> None:
        """Refuse a model, prompts or a number of steps that it was not made with; None is not looked at.

        Raises:
            InversionError: saying what differs and what to do.
        """
        if model not in (None, self.model):
            raise InversionError(
                "this inversion was made with another base model, or with its weights in another number "
                "format: invert the photo anew"
            )
        if prompts is not None and prompts != self.prompts:
            raise InversionError(
                f"this inversion was made with the prompt '{', '.join(self.prompts)}', not "
                f"'{', '.join(prompts)}': leave the source prompt out, or invert the photo anew"
            )
        if steps is not None and steps != self.steps:
            raise InversionError(
                f"this inversion has {self.steps} steps, not {steps}: leave the steps out, or invert anew"
            )

    def to(self, device: torch.device | str) -> Self:
        """The same record with its tensors on ``device``."""
        moved = {n: None if getattr(self, n) is None else getattr(self, n).to(device) for n in _TENSORS}
        return replace(self, **moved)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the file, whole or not at all.

        Raises:
            OutputError: it cannot be written, or exists and not ``force``.
        """
        from safetensors.torch import save_file

        tensors = {n: getattr(self, n) for n in _TENSORS if getattr(self, n) is not None}
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TENSORS}
        about["scheduler"], about["options"] = dict(self.scheduler), dict(self.options or {})
        metadata = {"format": FORMAT, "version": str(VERSION), "inversion": json.dumps(about, sort_keys=True)}
        with atomic_output(path, force=force) as part:
            ready = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
            save_file(ready, part, metadata=metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file.

        Raises:
            InversionError: missing, damaged, of another kind or of a newer version.
        """
        from safetensors import safe_open

        path = Path(path)
        if not path.is_file():
            raise InversionError(f"there is no inversion file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                head = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(head.get("inversion", "null"))
            version = int(head.get("version", 0))
        except Exception as error:  # hostile bytes break parsers in many ways
            raise InversionError(f"{path} is no inversion file: {first_line(error)}") from error
        if head.get("format") != FORMAT or not isinstance(about, dict):
            raise InversionError(f"{path} is no inversion file")
        if version > VERSION:
            raise InversionError(
                f"{path} has version {version}, this idpersona reads up to {VERSION}: update idpersona"
            )
        return cls._build(path, about, tensors)

    @classmethod
    def _build(cls, path: Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        wanted: dict[str, tuple[type, ...]] = {
            "method": (str,),
            "prompts": (list,),
            "guidance": (int, float),
            "scheduler": (dict,),
            "model": (str,),
            "options": (dict,),
            "passes": (int,),
            "attached": (bool,),
        }
        wrong = [n for n, kinds in wanted.items() if not isinstance(about.get(n), kinds)]
        wrong += sorted(about.keys() - wanted.keys()) + sorted(tensors.keys() - set(_TENSORS))
        if "latents" not in tensors or wrong or not all(isinstance(p, str) for p in about["prompts"]):
            raise InversionError(f"{path} is a damaged inversion file: {', '.join(wrong) or 'latents'}")
        try:
            values: dict[str, Any] = {**about, "prompts": tuple(about["prompts"]), **tensors}
            return cls(**values)
        except InversionError as error:
            raise InversionError(f"{path}: {error}") from error


def model_fingerprint(pipe: Any) -> str:
    """Sha256 (hex) over U-Net, text encoders and autoencoder of a pipeline: names, shapes and some numbers.

    Weights that were loaded in float16 and in float32 from one file have the same one.

    Raises:
        BadInput: weights are not in memory, as with sequential offload.
    """
    import hashlib

    digest = hashlib.sha256()
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        model = getattr(pipe, part, None)
        if model is None:
            continue
        model = getattr(model, "_orig_mod", model)
        for name, weight in sorted(model.state_dict().items()):
            if weight.is_meta:
                raise BadInput(
                    f"the weights of {part} are not in memory (sequential offload): photos are inverted with "
                    "the model loaded, or with enable_model_cpu_offload()"
                )
            digest.update(f"{part}.{name} {tuple(weight.shape)}\n".encode())
            flat = weight.flatten()
            some = flat[:: max(1, flat.numel() // 16)][:16].to("cpu", torch.float16)
            digest.update(some.contiguous().numpy().tobytes())
    return digest.hexdigest()
