"""What is installed is what lies in the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = ("adapters", "pipelines", "training", "app", "assets")


def tracked(*places: str) -> list[str]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--", *places], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: nothing to compare the wheel with")
    return listed.stdout.split()


def as_installed(path: str) -> str:
    return path if path.startswith("idpersona/") else f"idpersona/{path}"


def test_every_package_folder_is_listed():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {
        str(Path(as_installed(path)).parent).replace("/", ".")
        for path in tracked("idpersona", *MAPPED)
        if path.endswith(".py")
    }
    assert found == listed


def test_the_links_lead_to_the_top_level_folders():
    for name in MAPPED:
        link = ROOT / "idpersona" / name
        assert link.is_symlink() and link.resolve() == ROOT / name


def test_the_wheel_holds_the_tree(tmp_path):
    # From a copy: what an earlier build left in the checkout would find its way into the wheel.
    tree = tmp_path / "tree"
    for path in tracked("."):
        if os.path.lexists(ROOT / path):
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, tree / path, follow_symlinks=False)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tree)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("idpersona/")}
    links = {f"idpersona/{name}" for name in MAPPED}
    wanted = {as_installed(path) for path in tracked("idpersona", *MAPPED) if path not in links}
    assert held == wanted
    metadata = zipfile.ZipFile(wheel).read(
        next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA"))
    )
    assert b"LicenseRef-idpersona-research-weights" in metadata


def test_nothing_that_development_data_may_not_leave_is_tracked():
    allowed = ("tests/golden/", "assets/")
    for path in tracked("."):
        assert not re.search(r"\.(tar|jpg|jpeg|ckpt|onnx|dat|bin)$", path), path
        if path.endswith((".png", ".safetensors", ".npz", ".npy")):
            assert path.startswith(allowed), path


def test_quick_start_is_two_one_line_blocks_and_ci_runs_the_second():
    section = re.search(r"^## Quick start$(.*?)^## ", (ROOT / "README.md").read_text(), re.S | re.M)
    assert section
    blocks = re.findall(r"^```bash\n(.*?)^```$", section[1], re.S | re.M)
    assert len(blocks) == 2 and all(block.count("\n") == 1 for block in blocks)
    assert "generate" in blocks[0] and "pytest" in blocks[1]
    script = (ROOT / ".ci" / "run").read_text()
    found = re.search(r"^command=.*$", script, re.M)
    assert found
    read = subprocess.run(
        ["bash", "-c", f'{found[0]}; printf "%s" "$command"'], cwd=ROOT, capture_output=True, text=True
    )
    assert read.stdout == blocks[1].rstrip("\n")
    assert 'eval "$command"' in script


def test_assets_are_small_enough():
    total = sum((ROOT / path).stat().st_size for path in tracked("assets"))
    assert total <= 96 * 2**20
