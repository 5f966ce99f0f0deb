"""Evaluations of inversions and edits, whole, on a tiny real base and a small private data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from idpersona.errors import BadInput
from idpersona.eval.edit_ways import Retoucher, Way
from idpersona.eval.editing import evaluate_editing
from idpersona.eval.features import feature_distance
from idpersona.eval.inversion import CEILING, evaluate_inversion
from idpersona.eval.pictures import EQUAL, mse, psnr, ssim
from idpersona.eval.sitters import sitters
from idpersona.pipelines import Control
from idpersona.provenance import is_marked


def test_every_inversion_beside_the_ceiling(
    pipe: Any, protocol: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    report = evaluate_inversion(
        pipe,
        protocol,
        ["direct", "ddim", "null-text"],
        finder=finder,
        store=store,
        photos=2,
        steps=2,
        cache=face_cache,
        quiet=True,
    )
    rows = {row["inversion"]: row for row in report.rows}
    assert list(rows) == [CEILING, "direct", "ddim", "null-text"] and not report.failures
    # Pinned, a photo is what the autoencoder makes of it; up to rounding pixels.
    assert rows["direct"]["to_ceiling"].mean > 45
    assert rows["direct"]["psnr"].mean == pytest.approx(rows[CEILING]["psnr"].mean, abs=0.05)
    assert rows["ddim"]["passes"] == 2 and rows["null-text"]["passes"] > 6
    assert rows[CEILING]["to_ceiling"].mean == EQUAL and "passes" not in rows[CEILING]
    assert {"photo", "source", "direct"} <= report.people[0].keys()
    assert len(report.people) == 2 and report.text().count("\n| ") >= 5


def test_an_inversion_that_a_base_refuses_is_named(
    protocol: Any, finder: Any, store: Any, face_cache: Path
) -> None:
    from idpersona.pipelines import load_base

    mini: Any = load_base("mini")
    mini.set_progress_bar_config(disable=True)
    common: dict[str, Any] = {"finder": finder, "store": store, "photos": 1, "steps": 1, "quiet": True}
    report = evaluate_inversion(mini, protocol, ["ledits", "direct"], cache=face_cache, **common)
    assert [row["inversion"] for row in report.rows] == [CEILING, "direct"]
    assert "ledits" in report.failures[0] and "AutoencoderTiny" in report.failures[0]


def test_edits_that_do_nothing_and_edits_that_do(
    pipe: Any,
    protocol: Any,
    finder: Any,
    store: Any,
    judge: Any,
    classifier: Any,
    adapter: Any,
    tmp_path: Path,
    face_cache: Path,
) -> None:
    adapter.save_pretrained(tmp_path / "adapter")
    ways = [
        Way("nothing", control=Control(strength=0.0)),
        Way("plain", control=None, detail=False, against_source=False, guidance=7.0),
        Way("kept", adapter=str(tmp_path / "adapter")),
    ]
    common: dict[str, Any] = {
        "judges": [judge],
        "classifier": classifier,
        "finder": finder,
        "store": store,
        "cache": face_cache,
        "pictures": tmp_path / "edits",
        "quiet": True,
    }
    two = ("Smiling", "Young")
    report = evaluate_editing(pipe, protocol, ways, photos=2, attributes=two, steps=2, batch=2, **common)
    rows = {row["way"]: row for row in report.rows}
    assert list(rows) == ["photo", "nothing", "plain", "kept"]
    # Held to the photo throughout and with its detail back, an edit is the photo.
    for key in ("success", "tiny-judge", "background", "features"):
        assert rows["nothing"][key].mean == pytest.approx(rows["photo"][key].mean, abs=1e-5), key
    assert rows["photo"]["background"].mean == EQUAL and rows["photo"]["tiny-judge"].mean > 0.9
    # A tiny base draws no face: no likeness, not the likeness of those that are found.
    assert rows["plain"]["tiny-judge"].mean == 0 and rows["plain"]["background"].mean < 30
    assert rows["plain"]["features"].mean > 0.01
    assert report.sheet is not None and len(report.people) == 2
    assert report.weights["base"] and report.weights[f"adapter:{tmp_path / 'adapter'}"]
    with pytest.raises(BadInput, match="does not know Bald"):
        evaluate_editing(pipe, protocol, ways, attributes=("Bald",), **common)


def test_masks_say_where_pictures_are_compared() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    other = pixels.copy()
    other[:, 30:] = rng.integers(0, 255, (40, 20, 3), dtype=np.uint8)
    a, b = Image.fromarray(pixels), Image.fromarray(other)
    left = np.zeros((40, 50))
    left[:, :20] = 1
    assert mse(a, b, left) == 0 and psnr(a, b, left) == EQUAL and ssim(a, b, left) == pytest.approx(1.0)
    error = ((pixels / 255.0 - other / 255.0) ** 2)[:, 30:].mean()
    right = np.zeros((40, 50), bool)
    right[:, 30:] = True
    assert mse(a, b, right) == pytest.approx(error) and mse(a, b) == pytest.approx(error * 20 / 50)
    assert psnr(a, b, right) == pytest.approx(-10 * np.log10(error)) and ssim(a, b, right) < 0.2
    for mask in (np.zeros((40, 50)), np.ones((50, 40))):
        with pytest.raises(BadInput, match="mask"):
            mse(a, b, mask)
    with pytest.raises(BadInput, match="50x40 and 20x20"):
        psnr(a, b.resize((20, 20)))


def test_feature_distance_grows_with_the_difference() -> None:
    from idpersona.images import open_photo

    face = open_photo("sample:astronaut").crop((130, 20, 330, 220))
    turned, other = face.rotate(3), face.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    assert feature_distance(face, face) == pytest.approx(0, abs=1e-6)
    assert 0 < feature_distance(face, turned) < feature_distance(face, other) < 2


def test_the_commands_run_from_folders(
    pipe: Any, faces_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idpersona.eval.cli import app

    monkeypatch.setenv("IDPERSONA_DATA", str(faces_folder))
    pipe.save_pretrained(tmp_path / "base")
    common = ["--base", str(tmp_path / "base"), "--protocol", str(faces_folder / "tiny.protocol.json")]
    common += ["--quick", "--json", "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "out")]
    for name in ("inversion", "editing"):
        words = [name, *common, "--method", "direct", "--method", "negative-prompt", "--steps", "2"]
        found = CliRunner().invoke(app, words, catch_exceptions=False)
        report = json.loads(found.stdout)
        assert report["kind"] == name and len(report["people"]) == 2
        assert (tmp_path / "out" / f"{name}.md").is_file() and (tmp_path / "out" / f"{name}.png").is_file()
    with pytest.raises(BadInput, match="dirct"):
        CliRunner().invoke(app, ["inversion", *common, "--method", "dirct"], catch_exceptions=False)


def test_an_interrupted_run_of_edits_goes_on(
    pipe: Any, protocol: Any, finder: Any, store: Any, adapter: Any, tmp_path: Path, face_cache: Path
) -> None:
    adapter.save_pretrained(tmp_path / "adapter")
    people, _ = sitters(protocol, store, finder, 2, 64, cache=face_cache, quiet=True)
    plain, kept = Way("plain"), Way("kept", adapter=str(tmp_path / "adapter"))

    def retoucher(**changes: Any) -> Retoucher:
        settings: dict[str, Any] = {"steps": 2, "guidance": 3.0, "pictures": tmp_path / "edits", **changes}
        return Retoucher(pipe, [plain, kept], ["Smiling", "Young"], quiet=True, **settings)

    first = retoucher()
    begun, seconds = first.draw(plain, people[:1])
    assert first.drawn == 2 and seconds is not None
    again = retoucher(batch=1)
    finished, _ = again.draw(plain, people)
    assert again.drawn == 2
    for before, after in zip(begun[0], finished[0], strict=True):
        assert np.array_equal(np.asarray(before), np.asarray(after))
    # A way by another name has files of its own; where nothing is left to draw, no time was taken.
    assert again.draw(replace(plain, name="else"), people)[1] is not None
    assert again.draw(plain, people)[1] is None
    for way in (kept, replace(plain, control=None), replace(plain, detail=False)):
        other = retoucher()
        other.draw(way, people[:1])
        assert other.drawn == 2, way
    for change in ({"steps": 1}, {"guidance": 2.0}):
        other = retoucher(**change)
        other.draw(plain, people[:1])
        assert other.drawn == 2, change
    names = sorted(path.name for path in (tmp_path / "edits").iterdir())
    assert not [name for name in names if name.startswith(".")]
    assert all(is_marked(tmp_path / "edits" / name) for name in names)
