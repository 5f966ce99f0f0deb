"""``dataset check``: a sound dataset passes, and every kind of damage is one line that names its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idpersona.testing.command import Run
from idpersona.training.data.builder.vectors import read_shard, write_shard


@pytest.fixture(scope="module")
def built(small_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four people, one of whom has one photo."""
    from idpersona.cli.main import main

    photos = tmp_path_factory.mktemp("photos")
    for path in small_photos.glob("*.png"):
        if path.name[:2] not in ("05", "09"):
            shutil.copy(path, photos)
    place = photos / ".." / "checked"
    words = ["dataset", "build", str(photos), "-o", str(place), "--caption", "any", "--min-side", "200"]
    assert main([*words, "--same-person", "0.35"]) == 0
    return place.resolve()


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(built, tmp_path / "set"))


def change(place: Path, line: int, **values: Any) -> None:
    """Change columns of a line of ``metadata.jsonl``, counted from 1; None takes one out."""
    path = place / "metadata.jsonl"
    lines = path.read_text().splitlines()
    row = {**json.loads(lines[line - 1]), **values}
    lines[line - 1] = json.dumps({k: v for k, v in row.items() if v is not None})
    path.write_text("\n".join(lines) + "\n")


def test_a_sound_dataset_passes(run: Run, built: Path) -> None:
    out = run("dataset", "check", built, "--hashes").done().out.splitlines()
    assert out == [
        "1 people have one photo; trainings on pairs leave them out (--pairs)",
        f"{built}: 10 photos, 4 people, 0 problem(s)",
    ]
    found = json.loads(run("dataset", "check", built, "--json").done().out)
    assert found["problems"] == [] and found["photos"] == 10
    outcome = run("dataset", "check", built, "--pairs")
    assert outcome.status == 1
    assert outcome.out.splitlines()[0].startswith("metadata.jsonl line 2: person-000002 has one photo")


FIRST, SECOND = "images/00-person-1.png", "images/01-person-2.png"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "picture gone": (
        lambda p: (p / FIRST).unlink(),
        f"metadata.jsonl line 1: {FIRST}: it is not there: put the picture back, or remove the line",
    ),
    "column missing": (lambda p: change(p, 3, landmarks=None), "line 3: column landmarks is missing: mend"),
    "column mistyped": (
        lambda p: change(p, 2, faces="two"),
        'metadata.jsonl line 2: column faces: input should be a valid integer, got "two": mend',
    ),
    "four landmarks": (lambda p: change(p, 2, landmarks=[[1, 1]] * 4), "line 2: column landmarks.4"),
    "landmarks outside": (
        lambda p: change(p, 4, landmarks=[[1, 1]] * 4 + [[1, 230]]),
        "line 4: landmarks of images/03-person-4.png lie outside of its 230x230 pixels",
    ),
    "box outside": (lambda p: change(p, 4, bbox=[0, 0, 231, 9]), "line 4: bbox of images/03-person-4.png"),
    "no hash": (lambda p: change(p, 1, sha256="abc"), "line 1: column sha256"),
    "twice": (lambda p: change(p, 2, file_name=FIRST), f"line 2: {FIRST} is in line 1 already"),
    "leads out": (lambda p: change(p, 1, file_name="../a.png"), "line 1: ../a.png leads out of the dataset"),
    "no JSON": (
        lambda p: (p / "metadata.jsonl").write_text("{\n" + (p / "metadata.jsonl").read_text()),
        "metadata.jsonl line 1: no JSON object",
    ),
    "pair of nobody": (
        lambda p: (p / "pairs.jsonl").write_text(
            '{"reference": "a.png", "target": "b.png", "identity": "c", "distance": 0.1}\n'
        ),
        "pairs.jsonl line 1: a.png is no photo of metadata.jsonl",
    ),
    "pair of strangers": (
        lambda p: (p / "pairs.jsonl").write_text(
            f'{{"reference": "{FIRST}", "target": "{SECOND}", "identity": "c", "distance": 0.1}}\n'
        ),
        "pairs.jsonl line 1: the two are not both c",
    ),
    "pair of one": (
        lambda p: (p / "pairs.jsonl").write_text(
            f'{{"reference": "{FIRST}", "target": "{FIRST}", "identity": "c", "distance": 0.1}}\n'
        ),
        "pairs.jsonl line 1: reference and target are one photo",
    ),
    "pairs gone": (lambda p: (p / "pairs.jsonl").unlink(), "pairs.jsonl: the file is missing"),
    "reason gone": (
        lambda p: (p / "rejected.jsonl").write_text('{"file": "a.png", "rule": "side"}\n'),
        "rejected.jsonl line 1: column reason is missing",
    ),
    "embeddings gone": (
        lambda p: next(p.glob("embeddings-*")).unlink(),
        "embeddings-*.safetensors: embeddings are missing: build the dataset again",
    ),
    "embeddings cut": (
        lambda p: (e := next(p.glob("embeddings-*"))).write_bytes(e.read_bytes()[:500]),
        "-00000.safetensors is damaged",
    ),
    "embeddings of others": (
        lambda p: change(p, 5, sha256="0" * 64),
        "row 4 is not of the photo in row 4 of the table",
    ),
    "settings gone": (lambda p: (p / "dataset.json").unlink(), "dataset.json: it is missing or damaged"),
    "newer": (
        lambda p: (p / "dataset.json").write_text('{"format": 2, "files": {}}'),
        "dataset.json: format 2 is not 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line(run: Run, copy: Path, damage: str) -> None:
    spoil, said = DAMAGE[damage]
    spoil(copy)
    outcome = run("dataset", "check", copy)
    assert outcome.status == 1 and outcome.err == ""
    assert any(said in line for line in outcome.out.splitlines()), outcome.out


def test_hashes_tell_changed_pictures(run: Run, copy: Path) -> None:
    first, second = sorted(path for path in (copy / "images").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    second.write_bytes(second.read_bytes()[:2000])
    change(copy, 3, width=231)
    run("dataset", "check", copy).done()
    outcome = run("dataset", "check", copy, "--hashes")
    assert outcome.status == 1
    lines = outcome.out.splitlines()
    assert "line 1: images/00-person-1.png has changed, its hash is" in lines[0]
    assert "line 2:" in lines[1] and "is damaged or cut off" in lines[1]
    assert "line 3: images/02-person-3.png has 230x230 pixels, not 231x230" in lines[2]
    assert "metadata.jsonl was changed after the dataset was built" in lines
    assert (
        run("dataset", "check", copy, "--hashes", "--most", 1).out.splitlines()[1].startswith("… and 2 more")
    )


def test_rows_that_are_lacking_or_no_numbers(run: Run, copy: Path) -> None:
    path = next(copy.glob("embeddings-*"))
    arrays, photos, about = read_shard(path)
    write_shard(path, {"embeddings": arrays["embeddings"][:9]}, photos[:9], 0, about)
    assert "9 rows for 10 photos" in run("dataset", "check", copy).out
    arrays["embeddings"][3, 3] = np.nan
    write_shard(path, arrays, photos, 0, about)
    assert "embeddings holds values that are not finite" in run("dataset", "check", copy).out
    arrays["embeddings"][3, 3] = 0
    write_shard(path, {"embeddings": arrays["embeddings"][:4]}, photos[:4], 0, about)
    write_shard(path.with_name(path.name.replace("00000", "00001")), arrays, photos, 0, about)
    assert "it begins with row 0 instead of 4" in run("dataset", "check", copy).out


def test_what_is_no_dataset(run: Run, tmp_path: Path) -> None:
    run("dataset", "check", tmp_path / "nowhere").refused("there is no dataset")
    run("dataset", "check", tmp_path).refused("it has no metadata.jsonl")
