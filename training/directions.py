"""Find editing directions in the embedded model's W+ space, and put them into its W+ adapter.

``python -m idpersona.training.directions --style runs/mini-style/encoder --adapter runs/wplus-2/wplus
--labeler runs/labeler/model``. The codes of the training photos are explained by all their attributes at once
(least squares on the labeler's answers); what one attribute adds while the others stay is its direction, as
InterFaceGAN's conditional manipulation asks for (arXiv:1907.10786). What measures has no part in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from idpersona.adapters.wplus.adapter import WPlus
from idpersona.adapters.wplus.directions import WPlusDirections
from idpersona.checkpoint import load_component
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.encoders.style import StyleEncoder
from idpersona.errors import BadInput, UnknownName
from idpersona.pixels import shrink
from idpersona.training.command import exit_status
from idpersona.training.data.faces import FaceData
from idpersona.training.data.pictures import run_over
from idpersona.training.latents import Latents
from idpersona.training.weights import require_folder

NAMES = {
    "smile": ("Smiling", 1.0),
    "eyeglasses": ("Eyeglasses", 1.0),
    "age": ("Young", -1.0),
    "gender": ("Male", 1.0),
    "blond_hair": ("Blond_Hair", 1.0),
    "black_hair": ("Black_Hair", 1.0),
    "bangs": ("Bangs", 1.0),
    "beard": ("No_Beard", -1.0),
    "hat": ("Wearing_Hat", 1.0),
    "makeup": ("Heavy_Makeup", 1.0),
    "pale": ("Pale_Skin", 1.0),
    "receding_hairline": ("Receding_Hairline", 1.0),
}
"""Name of a direction -> the attribute, and which way of it is up. ``gender`` goes from female to male."""
RIDGE = 0.01
"""Of the attributes' own variance: keeps attributes that always come together from cancelling each other."""


def attribute_of(name: str, labels: Sequence[str]) -> tuple[int, float]:
    """Which of a classifier's ``labels`` the direction ``name`` moves, and which way of it is up.

    Raises:
        UnknownName: no such direction; BadInput: the classifier does not know its attribute.
    """
    if name not in NAMES:
        raise UnknownName("direction", name, NAMES)
    attribute, sign = NAMES[name]
    if attribute not in labels:
        raise BadInput(f"the classifier knows no attribute {attribute}, which '{name}' needs")
    return list(labels).index(attribute), sign


def find_directions(codes: np.ndarray, answers: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """A direction for each of :data:`NAMES`: float32 [rows, dim].

    Args:
        codes: [photos, rows, dim].
        answers: logits of the attributes, [photos, attributes]; columns are called ``names``.

    An amount of 1 is what the codes of two photos differ by whose answers differ by one spread.
    """
    flat = codes.reshape(len(codes), -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    told = answers.astype(np.float64)
    told = (told - told.mean(axis=0)) / told.std(axis=0).clip(1e-6)
    gram = told.T @ told / len(told) + RIDGE * np.eye(told.shape[1])
    effect = np.linalg.solve(gram, told.T @ flat / len(told))
    found = {}
    for name in NAMES:
        column, sign = attribute_of(name, names)
        found[name] = (sign * effect[column]).reshape(codes.shape[1:]).astype(np.float32)
    return found


def add_directions(adapter: Path, style: Path, labeler: Path, vae: str) -> None:
    """Find the directions on the training photos and save the adapter with them."""
    wplus: Any = WPlus.from_pretrained(require_folder(adapter, "W+ adapter", "wplus-2"))
    encoder: Any = load_component(StyleEncoder, require_folder(style, "W+ encoder", "mini-style")).float()
    network: Any = load_component(SmallFaceCNN, require_folder(labeler, "attribute classifier", "labeler"))
    network = network.float()
    faces = FaceData.open("train")
    rows = range(len(faces))
    codes = run_over(nn.Sequential(Latents(vae), encoder), rows, faces.framed).numpy()
    codes = codes.reshape(len(codes), encoder.config["rows"], encoder.config["dim"])
    answers = run_over(network, rows, lambda row: shrink(faces.framed(row))).numpy()
    found = find_directions(codes, answers, list(network.config["labels"]))
    kept = WPlusDirections(list(found), *codes.shape[1:])
    kept.steps = torch.from_numpy(np.stack(list(found.values())))
    wplus.own_directions = kept
    wplus.save_pretrained(adapter)
    for name, step in found.items():
        print(f"{name}: length {np.linalg.norm(step):.2f}", file=sys.stderr)


def main() -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, default=Path("runs/wplus-2/wplus"))
    parser.add_argument("--style", type=Path, default=Path("runs/mini-style/encoder"))
    parser.add_argument("--labeler", type=Path, default=Path("runs/labeler/model"))
    parser.add_argument("--vae", default="runs/mini-vae/vae")
    given = parser.parse_args()
    return exit_status(lambda: add_directions(given.adapter, given.style, given.labeler, given.vae))


if __name__ == "__main__":
    sys.exit(main())
