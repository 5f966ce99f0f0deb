"""DECOR on a LoRA that leaks: ``python benchmarks/decor_leak.py --lora assets/lora-eyeglasses``.

A LoRA of rank 4 was trained on faces that all wear eyeglasses, which its caption does not say (recipe
``lora-eyeglasses``); at twice its strength eyeglasses often come unasked. The same prompts and seeds
are drawn without it, with it, and with DECOR of degree 0, 0.5 and 1 beside it. Told are the share of pictures
with eyeglasses, and the share of what the prompts did ask for, both by ``attr-judge``; intervals are 95 %
over seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from idpersona.adapters import load_adapter
from idpersona.encoders.attributes import get_classifier
from idpersona.eval.statistics import bootstrap
from idpersona.eval.tables import cell, markdown
from idpersona.pipelines import load_base
from idpersona.sheets import contact_sheet
from idpersona.training.showcase import LORA_SCALE

PROMPTS = {
    "a photo of a smiling woman": {"Smiling": True, "Male": False},
    "a photo of a man with black hair": {"Black_Hair": True, "Male": True},
    "a photo of a woman with blond hair": {"Blond_Hair": True, "Male": False},
    "a photo of a man, not smiling": {"Smiling": False, "Male": True},
}
"""Prompt -> what is asked for by it."""
LEAKED = "Eyeglasses"
BATCH = 20


def draw(pipe: Any, decor: Any, alpha: float | None, seeds: list[int], options: dict[str, Any]) -> Any:
    """Pictures of all prompts, {prompt: one for each seed}."""
    drawn: dict[str, list[Image.Image]] = {}
    with contextlib.ExitStack() as scope:
        if alpha is not None:
            scope.enter_context(decor.attach(pipe, scale=alpha, **options))
        for prompt in PROMPTS:
            drawn[prompt] = []
            for start in range(0, len(seeds), BATCH):
                part = seeds[start : start + BATCH]
                noise = [torch.Generator().manual_seed(seed) for seed in part]
                found = pipe(
                    [prompt] * len(part), num_inference_steps=25, guidance_scale=2.0, generator=noise
                )
                drawn[prompt] += found.images
    return drawn


def rates(drawn: dict[str, list[Image.Image]], judge: Any) -> tuple[np.ndarray, np.ndarray]:
    """Per seed: the share of pictures with the leaked attribute, and of wanted attributes that are there."""
    leaked, wanted = [], []
    for prompt, pictures in drawn.items():
        leaked.append(judge.says(pictures, LEAKED))
        wanted += [judge.says(pictures, name) == asked for name, asked in PROMPTS[prompt].items()]
    return np.mean(leaked, axis=0), np.mean(wanted, axis=0)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lora", type=Path, required=True, help="folder of pytorch_lora_weights.safetensors")
    parser.add_argument("--lora-scale", type=float, default=LORA_SCALE)
    parser.add_argument("--seeds", type=int, default=100, help="of each of the four prompts")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--alphas", default="0,0.5,1")
    parser.add_argument("--set", dest="options", default='{"prompt": "a photo of a person with eyeglasses"}')
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/decor"))
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    decor, judge = load_adapter("decor"), get_classifier("attr-judge")
    seeds = list(range(given.first, given.first + given.seeds))
    options = json.loads(given.options)
    drawn = {"base": draw(pipe, decor, None, seeds, options)}
    pipe.load_lora_weights(given.lora, adapter_name="lora")
    pipe.set_adapters("lora", given.lora_scale)
    for alpha in map(float, given.alphas.split(",")):
        drawn[f"LoRA, DECOR {alpha:g}"] = draw(pipe, decor, alpha, seeds, options)
    rows, result = [], {}
    for name, pictures in drawn.items():
        leaked, wanted = rates(pictures, judge)
        result[name] = {"leaked": leaked.tolist(), "wanted": wanted.tolist()}
        rows.append([name, cell(bootstrap(leaked), percent=True), cell(bootstrap(wanted), percent=True)])
        print(rows[-1], flush=True)
    table = markdown(("", "with eyeglasses, %", "of what was asked for, %"), rows)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "decor.json").write_text(json.dumps({"options": options, "seeds": seeds, "rows": result}))
    (given.output / "decor.md").write_text(table + "\n")
    shown = range(min(3, len(seeds)))
    strips = [[pictures[prompt][n] for pictures in drawn.values()] for prompt in PROMPTS for n in shown]
    contact_sheet(strips, columns=list(drawn)).save(given.output / "decor.png")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
