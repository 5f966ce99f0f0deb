"""Rewrite ``manifest.json``: sha256 and size of every embedded and package file.

``python -m idpersona.registry.refresh`` after weights in ``assets/`` changed; ``--check`` only compares, and
exits with status 1 when the manifest is stale. Entries of hub weights are kept: they are pinned by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idpersona.hashing import file_sha256
from idpersona.registry.locate import candidates
from idpersona.registry.table import WEIGHTS

MANIFEST = Path(__file__).with_name("manifest.json")
Manifest = dict[str, dict[str, dict[str, Any]]]
DLIB_FILES = ("dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_68_face_landmarks.dat")


def describe(folder: Path, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """``{relative path: {sha256, size}}`` of ``paths``."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "size": path.stat().st_size}
        for path in paths
    }


def build(old: Manifest) -> Manifest:
    """The manifest as the files on this machine want it; of what is fetched, ``old`` is kept."""
    new: Manifest = {}
    for name, weight in WEIGHTS.items():
        if weight.place in ("hub", "hand"):
            if name in old:
                new[name] = old[name]
            continue
        folders = [folder for folder in candidates(weight) if folder.is_dir()]
        if not folders:
            print(f"{name}: not on this machine, left out", file=sys.stderr)
            continue
        folder = folders[0]
        if weight.place == "package":
            paths = [folder / file for file in DLIB_FILES]
        else:
            paths = sorted(
                p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "README"))
            )
            paths = [p for p in paths if p.suffix != ".pyc"]
        new[name] = describe(folder, paths)
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; ``argv`` is by default that of the process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when stale")
    arguments = parser.parse_args(argv)
    old: Manifest = json.loads(MANIFEST.read_text("utf-8"))
    new = build(old)
    stale = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if arguments.check:
        print(f"stale: {', '.join(stale)}" if stale else "manifest is up to date")
        return 1 if stale else 0
    MANIFEST.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
    print(f"rewrote {MANIFEST}: {', '.join(stale) or 'nothing changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
