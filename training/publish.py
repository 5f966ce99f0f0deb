"""Put finished runs into ``assets/``: float16 safetensors, in the layout that users load.

``python -m idpersona.training.publish [--runs runs]`` publishes what it finds there, then refreshes the registry's
hashes. Model cards (README.md) in ``assets/`` are written by hand and stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from idpersona.registry import refresh

ASSETS = Path(__file__).resolve().parents[1] / "assets"
CLASSIFIERS = {"labeler": "classifiers/labeler", "attr-judge": "classifiers/attr-judge", "judge": "judge"}


def publish_base(source: Path, target: Path) -> None:
    """A stock pipeline folder in float16, that still loads as float32 where nobody asks for half precision."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32)
    pipe.to(torch.float16)
    pipe.save_pretrained(target)
    # transformers loads in the dtype that the configuration names: float32, as diffusers does by default.
    path = target / "text_encoder" / "config.json"
    _write_json(path, json.loads(path.read_text()) | {"dtype": "float32"})
    # diffusers writes this key and then warns about it at every load.
    path = target / "vae" / "config.json"
    _write_json(path, {k: v for k, v in json.loads(path.read_text()).items() if k != "block_out_channels"})


def publish_adapter(source: Path, target: Path) -> None:
    """An adapter folder in float16."""
    from idpersona.adapters import load_adapter

    adapter = load_adapter(str(source), base="mini")
    adapter.to(dtype=torch.float16)
    adapter.save_pretrained(target)


def publish_network(source: Path, target: Path) -> None:
    """A classifier or judge in float16."""
    from idpersona.encoders.small_cnn import SmallFaceCNN

    SmallFaceCNN.from_pretrained(source).half().save_pretrained(target)


def main() -> int:
    """Publish every run that is there; name the ones that are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    runs: Path = parser.parse_args().runs
    jobs = [(runs / "mini" / "base", ASSETS / "mini", publish_base)]
    jobs += [(runs / "mini" / "instantid", ASSETS / "instantid-mini", publish_adapter)]
    jobs += [(runs / name / "model", ASSETS / place, publish_network) for name, place in CLASSIFIERS.items()]
    for source, target, publish in jobs:
        if not source.is_dir():
            print(f"not there, left as it is: {source}", file=sys.stderr)
            continue
        card = (target / "README.md").read_bytes() if (target / "README.md").is_file() else None
        shutil.rmtree(target, ignore_errors=True)
        publish(source, target)
        if card is not None:
            (target / "README.md").write_bytes(card)
        size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 2**20
        print(f"{target.relative_to(ASSETS.parent)}: {size:.1f} MiB")
    sys.argv = sys.argv[:1]
    return refresh.main()


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
