"""The embedded base without idpersona: stock classes load it, and what it draws is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from idpersona.pipelines import load_base

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SCRIPT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "idpersona":
            raise ImportError("idpersona is not installed here")

sys.meta_path.insert(0, Blocked())
import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
noise = torch.Generator().manual_seed(3)
picture = pipe("a photo of a woman", num_inference_steps=2, guidance_scale=2.0, generator=noise).images[0]
picture.save(sys.argv[2])
assert not any(name.partition(".")[0] == "idpersona" for name in sys.modules)
"""


def test_it_draws_in_a_process_without_idpersona(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(ASSETS / "mini"), str(tmp_path / "alone.png")]
    subprocess.run(words, check=True, capture_output=True, cwd=tmp_path, env=os.environ)
    pipe = load_base("mini")
    generator = torch.Generator().manual_seed(3)
    ours = pipe("a photo of a woman", num_inference_steps=2, guidance_scale=2.0, generator=generator).images[
        0
    ]
    alone = np.asarray(Image.open(tmp_path / "alone.png"), dtype=int)
    assert alone.shape == (128, 128, 3)
    assert np.abs(alone - np.asarray(ours, dtype=int)).max() <= 1
