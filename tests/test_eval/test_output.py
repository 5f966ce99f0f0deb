"""Tables, sheets and the report file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.errors import OutputError
from idpersona.eval.report import Report, check_private_folder, check_writable
from idpersona.eval.statistics import Interval
from idpersona.eval.tables import cell, markdown, ranking_line
from idpersona.sheets import contact_sheet

SCORE = Interval(0.3521, 0.3312, 0.3729, 128)


def test_cells_show_intervals_gaps_and_percent() -> None:
    assert cell(SCORE) == "0.352 [0.331, 0.373]"
    assert cell(SCORE, percent=True) == "35.2 [33.1, 37.3]"
    assert (cell(None), cell(7), cell(0.5, 1), cell("x")) == ("–", "7", "0.5", "x")


def test_markdown_columns_line_up_and_a_name_cannot_break_them() -> None:
    table = markdown(("row", "own"), [("scale 1", SCORE), ("a|b", None)])
    assert table.splitlines() == [
        "| row     | own                  |",
        "| ------- | -------------------- |",
        "| scale 1 | 0.352 [0.331, 0.373] |",
        "| a\\|b    | –                    |",
    ]
    with pytest.raises(ValueError, match="1 cells under 2"):
        markdown(("a", "b"), [("only one",)])


def test_ranking_line_refuses_to_rank_overlapping_rows() -> None:
    near = Interval(0.36, 0.34, 0.38, 9)
    assert "not ranked" in ranking_line("own", {"a": SCORE, "b": near})
    far = Interval(0.01, 0.0, 0.02, 9)
    assert ranking_line("own", {"floor": far, "a": SCORE, "b": near}) == "own: b ~ a > floor"


def test_contact_sheet_places_pictures_and_leaves_gaps() -> None:
    red = Image.new("RGB", (10, 10), "red")
    sheet = contact_sheet([[red, None], [None, red]], cell=20)
    assert sheet.size == (40, 40)
    assert sheet.getpixel((10, 10)) == sheet.getpixel((30, 30)) == (255, 0, 0)
    assert sheet.getpixel((30, 10)) == (255, 255, 255)
    assert contact_sheet([[red]], columns=["c"], names=["n"], cell=20).size == (116, 34)


def make_report() -> Report:
    rows = [{"row": "scale 1", "own": SCORE, "rate": np.float32(0.5)}]
    people = [{"identity": "p", "points": np.zeros((1, 2))}]
    return Report("identity", {"steps": 2}, {"base": "ab"}, rows, people, "| a |", ["note"], ["p: no face"])


def test_report_is_plain_json_with_versions_hashes_and_failures(tmp_path: Path) -> None:
    report = make_report()
    report.sheet = Image.new("RGB", (4, 4))
    paths = report.write(tmp_path / "new")
    assert [path.name for path in paths] == ["identity.json", "identity.md", "identity.png"]
    saved = json.loads(paths[0].read_text())
    assert saved["rows"][0]["own"] == {"mean": 0.3521, "low": 0.3312, "high": 0.3729, "n": 128}
    assert saved["people"][0]["points"] == [[0.0, 0.0]] and saved["weights"] == {"base": "ab"}
    assert saved["failures"] == ["p: no face"] and saved["versions"]["torch"] != "not installed"
    assert "left out: 1" in paths[1].read_text() and "note" in paths[1].read_text()


def test_a_report_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    report = make_report()
    report.rows[0]["rate"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="cannot write into"):
        check_writable(file / "below")
    check_writable(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_sheets_of_real_people_stay_out_of_the_tree() -> None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout: nothing can be committed from here")
    with pytest.raises(OutputError, match="real people"):
        check_private_folder(root / "assets" / "sheets")
    check_private_folder(root / "reports" / "identity")
