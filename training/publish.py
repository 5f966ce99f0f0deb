"""Put finished runs into ``assets/``: float16 safetensors, in the layout that users load.

``python -m idpersona.training.publish [--runs runs]`` publishes what it finds there, then refreshes the
registry's hashes. Model cards (README.md) in ``assets/`` are written by hand and stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idpersona.errors import MissingWeights
from idpersona.registry import refresh
from idpersona.training.command import exit_status
from idpersona.training.weights import mend_vae_config

ASSETS = Path(__file__).resolve().parents[1] / "assets"
POSE_GAIN = 1.5
"""What IdentityNet's outputs are multiplied by, so that a scale of 1 holds the pose as well as it can.

Measured on `mini`, against 1: dlib finds the keypoints 1.8 instead of 2.2 % of the width from where they were
asked for, and the likeness stays (53 people, own - others 0.178 and 0.178 by mini-judge, 0.167 and 0.165 by
MobileFaceNet); 2 costs likeness (0.175, 0.157).
"""
LOCAL_GAIN = 1.5
"""What AnyMaker's local values are multiplied by, so that a scale of 1 is the strongest that still pays.

Measured on `mini`, 40 people, own - others by mini-judge and MobileFaceNet: 0.053 and 0.035 as trained,
0.070 and 0.048 at 1.3, 0.080 and 0.048 at 1.6.
"""
CLASSIFIERS = {
    "labeler": "classifiers/labeler",
    "attr-judge": "classifiers/attr-judge",
    "judge": "judge",
}
"""Run -> folder in the assets, of small networks."""
ADAPTERS = {
    "infinite-id/infinite-id": "infinite-id-mini",
    "sliders/wplus": "wplus-mini",
}
"""Folder of a run -> folder in the assets, of adapters that are published as they were trained."""


def publish_base(source: Path, target: Path) -> None:
    """A stock pipeline folder in float16 that loads as float32 where nobody asks for half precision."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(source)
    pipe.to(torch.float16)
    pipe.save_pretrained(target)
    # transformers loads in the dtype that the configuration names, diffusers in float32.
    path = target / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    mend_vae_config(target / "vae")


def publish_adapter(source: Path, target: Path) -> None:
    """An adapter folder in float16, the outputs of its IdentityNet multiplied by ``POSE_GAIN``."""

    def outputs(adapter: Any) -> Iterator[nn.Parameter]:
        net = adapter.identitynet
        for part in (net.controlnet_down_blocks, net.controlnet_mid_block):
            yield from part.parameters()

    _publish_stronger(source, target, outputs, POSE_GAIN)


def publish_anymaker(source: Path, target: Path) -> None:
    """An adapter folder in float16, its local values multiplied by ``LOCAL_GAIN``."""

    def values(adapter: Any) -> Iterator[nn.Parameter]:
        named = adapter.cross_attention.named_parameters()
        return (weight for name, weight in named if "to_v_" in name)

    _publish_stronger(source, target, values, LOCAL_GAIN)


@torch.no_grad()
def _publish_stronger(
    source: Path, target: Path, weights: Callable[[Any], Iterator[nn.Parameter]], gain: float
) -> None:
    """An adapter folder in float16, some of its weights multiplied by ``gain`` before they are rounded."""
    from idpersona.adapters import load_adapter

    adapter: Any = load_adapter(source, dtype=torch.float32)
    for weight in weights(adapter):
        weight.mul_(gain)
    adapter.to(dtype=torch.float16).save_pretrained(target)


def publish_network(source: Path, target: Path) -> None:
    """A classifier or judge in float16."""
    from idpersona.encoders.small_cnn import SmallFaceCNN

    SmallFaceCNN.from_pretrained(source).half().save_pretrained(target)


def publish_trained(source: Path, target: Path) -> None:
    """An adapter folder in float16."""
    from idpersona.adapters import load_adapter

    load_adapter(source, dtype=torch.float16).save_pretrained(target)


def publish_vit(source: Path, target: Path) -> None:
    """A ViT of transformers in float16 that loads as float32, with what it says of its pictures."""
    from transformers import ViTMAEModel

    ViTMAEModel.from_pretrained(source, dtype=torch.float16).save_pretrained(target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    shutil.copy2(source / "preprocessor_config.json", target)


def publish_style(source: Path, target: Path) -> None:
    """The encoder of the W+ space in float16."""
    from idpersona.encoders.style import StyleEncoder

    StyleEncoder.from_pretrained(source).half().save_pretrained(target)


def publish_lora(source: Path, target: Path) -> None:
    """A LoRA of diffusers in float16."""
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True)
    for file in source.glob("*.safetensors"):
        save_file({key: value.half() for key, value in load_file(file).items()}, target / file.name)


def forget_places(folder: Path) -> None:
    """Take out of configurations where the weights lay on the machine that made them."""
    for path in folder.rglob("*.json"):
        values = json.loads(path.read_text())
        if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(values, indent=2) + "\n")


def replace_folder(source: Path, target: Path, publish: Callable[[Path, Path], None]) -> None:
    """Publish beside ``target`` and put that in its place, so that a failure leaves what was there.

    Its model card stays.
    """
    fresh = target.with_name(f".{target.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        publish(source, fresh)
        forget_places(fresh)
        if (target / "README.md").is_file():
            shutil.copy2(target / "README.md", fresh / "README.md")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def publish_runs(runs: Path, assets: Path) -> None:
    """Publish every run below ``runs`` that is there; name the ones that are not.

    Raises MissingWeights when none is there.
    """
    jobs = [(runs / "mini" / "base", assets / "mini", publish_base)]
    jobs += [(runs / "mini" / "instantid", assets / "instantid-mini", publish_adapter)]
    jobs += [(runs / name / "model", assets / place, publish_network) for name, place in CLASSIFIERS.items()]
    jobs += [(runs / name, assets / place, publish_trained) for name, place in ADAPTERS.items()]
    jobs.append((runs / "anymaker" / "anymaker", assets / "anymaker-mini", publish_anymaker))
    jobs.append((runs / "mini-vit" / "model", assets / "mini-vit", publish_vit))
    jobs.append((runs / "mini-style" / "encoder", assets / "mini-wplus", publish_style))
    jobs.append((runs / "lora-eyeglasses" / "lora", assets / "lora-eyeglasses", publish_lora))
    if not any(source.is_dir() for source, _, _ in jobs):
        raise MissingWeights(f"no finished run in {runs}: give the folder of the runs with --runs")
    for source, target, publish in jobs:
        if not source.is_dir():
            print(f"not there, left as it is: {source}", file=sys.stderr)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(source, target, publish)
        size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 2**20
        print(f"{target}: {size:.1f} MiB")


def main() -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    runs = parser.parse_args().runs
    return exit_status(lambda: publish_runs(runs, ASSETS)) or refresh.main([])


if __name__ == "__main__":
    sys.exit(main())
