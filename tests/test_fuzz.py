"""The fuzz run at a size for every day; ``python benchmarks/fuzz.py`` is the full one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    import sys

    spec = importlib.util.spec_from_file_location("idpersona_fuzz", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_uncaught_exception(fuzz):
    tallies = list(fuzz.run(count=400, detections=8, seed=1))
    assert [tally.name for tally in tallies] == [
        "identity files",
        "photo files",
        "PNG settings",
        "people registry",
        "detection",
    ]
    for tally in tallies:
        assert not tally.defects, tally.defects[0]
        assert tally.refused, f"no mutation was refused: {tally.line()}"
    assert all(tally.accepted for tally in tallies[:2]), (
        "mutations are too coarse to reach what comes after parsing"
    )


def test_a_defect_is_found(fuzz, tmp_path):
    def broken(path):
        raise IndexError("list index out of range")

    tally = fuzz.fuzz("broken", [b"abc"], ".bin", broken, 3, 0, tmp_path)
    assert len(tally.defects) == 3
    assert "IndexError" in tally.defects[0]


def test_what_a_library_prints_is_a_defect(fuzz, tmp_path):
    tally = fuzz.fuzz("loud", [b"abc"], ".bin", lambda _: os.write(2, b"libtiff: bad tag"), 2, 0, tmp_path)
    assert len(tally.defects) == 2
    assert "libtiff: bad tag" in tally.defects[0]
