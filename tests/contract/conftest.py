"""The contract's table: one row per adapter and base. A new adapter adds rows, no tests.

A row is a stock pipeline, an adapter that fits it, and two people. The generic tests in this folder run over
all rows and know of no method; what a row cannot do is declared in ``lacks``, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from idpersona.adapters import load_adapter
from idpersona.adapters.base import Adapter
from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.identity import Feature, Identity
from idpersona.testing import tiny_components

PROMPT = "a photo of a smiling man"


@dataclass
class Row:
    """One row of the table.

    Attributes:
        seams: keys of ``scale`` that switch the adapter's parts.
        size: side of the canvas in pixels.
        lacks: test name -> reason why it does not apply.
    """

    name: str
    pipe: Any
    adapter: Adapter
    seams: tuple[str, ...]
    size: int
    lacks: dict[str, str] = field(default_factory=dict)

    def person(self, seed: int) -> Identity:
        rng = np.random.default_rng(seed)
        config: Any = self.adapter.config  # type: ignore[attr-defined]
        values = rng.standard_normal((1, config.embedding_dim)).astype(np.float32)
        shift = rng.uniform(-4, 4, size=2)
        face = np.array([[22, 24], [42, 24], [32, 34], [25, 44], [40, 44]]) * (self.size / 64) + shift
        features = {name: Feature(encoder=name, values=values) for name in self.adapter.encoders}
        return Identity(
            "face", features, keypoints=face.astype(np.float32), image_size=(self.size, self.size)
        )

    def draw(self, pipe: Any = None, **changes: Any) -> torch.Tensor:
        """Final latents of one call of the stock pipeline."""
        pictures = len(changes["prompt"]) if isinstance(changes.get("prompt"), list) else 1
        pictures *= changes.get("num_images_per_prompt", 1)
        pipe = pipe or self.pipe
        call = {
            "prompt": PROMPT,
            "num_inference_steps": 3,
            "guidance_scale": 5.0,
            "height": self.size,
            "width": self.size,
            "output_type": "latent",
            # One generator per picture, so that a picture does not depend on its place in a batch.
            "generator": [torch.Generator().manual_seed(7) for _ in range(pictures)],
        } | changes
        if call["prompt"] is None:
            del call["prompt"]
        return pipe(**call).images


def _tiny_instantid(kind: str, pipeline: Callable[..., Any]) -> Row:
    parts = tiny_components(f"instantid-{kind}")
    own = {name: parts.pop(name) for name in ("projector", "cross_attention", "controlnet")}
    sizes = {name: own["projector"].config[name] for name in InstantIDConfig().projector_sizes()}
    config = InstantIDConfig(**sizes, kps_radius=3, kps_stick_width=1)
    adapter = InstantID(own["projector"], own["cross_attention"], own["controlnet"], config)
    if kind == "sd15":
        parts["requires_safety_checker"] = False
    pipe = pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return Row(f"instantid-{kind}", pipe, adapter, ("identity", "net"), 64)


def _mini_instantid() -> Row:
    assets = Path(str(resources.files("idpersona.assets")))
    pipe = DiffusionPipeline.from_pretrained(str(assets / "mini"))
    pipe.set_progress_bar_config(disable=True)
    return Row("instantid-mini", pipe, load_adapter("instantid", base=pipe), ("identity", "net"), 128)


ROWS: dict[str, Callable[[], Row]] = {
    "instantid-mini": _mini_instantid,
    "instantid-sd15": lambda: _tiny_instantid("sd15", StableDiffusionPipeline),
    "instantid-sdxl": lambda: _tiny_instantid("sdxl", StableDiffusionXLPipeline),
}


@cache
def _row(name: str) -> Row:
    return ROWS[name]()


@pytest.fixture(params=list(ROWS))
def row(request: pytest.FixtureRequest) -> Row:
    """Each row in turn. The pipeline is shared by all tests of a row: attaching must leave no trace."""
    found = _row(request.param)
    test = request.node.originalname
    if test in found.lacks:
        pytest.skip(found.lacks[test])
    return found


@pytest.fixture
def new_row(request: pytest.FixtureRequest) -> Callable[[Row], Row]:
    """A row of its own for a test that changes the pipeline for good."""
    return lambda row: ROWS[row.name]()
