"""Where the weights used for measuring lie, and fingerprints of everything that took part in a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idpersona.errors import MissingWeights

if TYPE_CHECKING:
    from torch import nn


def shared_root() -> Path:
    """Folder of development files (``IDPERSONA_SHARED``; default: ``shared`` beside the repository)."""
    given = os.environ.get("IDPERSONA_SHARED")
    return Path(given) if given else Path(__file__).resolve().parents[2].parent / "shared"


def development_weight(relative: str) -> Path:
    """A weight file that is used during development only and is not shipped; MissingWeights when absent."""
    path = shared_root() / "weights" / relative
    if not path.is_file():
        raise MissingWeights(
            f"{relative} is not at {path}: it is a development file that is not distributed; "
            "set IDPERSONA_SHARED, or choose a judge or finder that ships (mini-judge, dlib)"
        )
    return path


def modules_sha256(modules: Mapping[str, nn.Module]) -> str:
    """sha256 over names, dtypes and values of all tensors of ``modules``, wherever they came from."""
    import torch

    digest = hashlib.sha256()
    for part, module in sorted(modules.items()):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


@cache
def code_sha256() -> str:
    """sha256 over what turns weights and settings into a picture: our own code there, and the libraries'
    versions."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    names = (
        "keypoints.py",
        "identity.py",
        "images.py",
        "pixels.py",
        "eval/generation.py",
        "eval/edit_ways.py",
    )
    files = [root / name for name in names]
    for room in ("adapters", "attention", "pipelines", "seams"):
        files += sorted((root / room).rglob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    for package in ("torch", "diffusers", "transformers"):
        digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()


def pipe_sha256(pipe: Any) -> str:
    """sha256 over the weights of all parts of a pipeline."""
    from torch import nn

    return modules_sha256({n: part for n, part in pipe.components.items() if isinstance(part, nn.Module)})


def recipe_sha256(pipe: Any) -> str:
    """sha256 over what else of a pipeline determines its pictures: settings of its parts, code, device."""
    return text_sha256([code_sha256(), pipe.device.type, *_configurations(pipe.components)])


def _configurations(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Settings that draw other pictures with the same weights: of scheduler, autoencoder, tokenizer …"""
    for name, part in sorted(parts.items()):
        config = getattr(part, "config", None)
        values: Mapping[str, Any] = {}
        if hasattr(part, "get_vocab"):
            values = part.get_vocab()
        elif config is not None:
            values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        # What starts with an underscore says where the component came from.
        yield name, type(part).__name__, sorted((k, repr(v)) for k, v in values.items() if k[:1] != "_")


def text_sha256(parts: Iterable[object]) -> str:
    """sha256 of ``repr`` of the parts, in order."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()
