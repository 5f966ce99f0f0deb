"""``idpersona eval …`` from the outside: whole runs on folders, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from idpersona.cli.main import main
from idpersona.eval.cli import app
from idpersona.provenance import is_marked


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def saved(pipe: Any, adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of the tiny base and its adapter."""
    folder = tmp_path_factory.mktemp("models")
    pipe.save_pretrained(folder / "base")
    adapter.save_pretrained(folder / "adapter")
    return str(folder / "base"), str(folder / "adapter")


def test_reconstruction_and_pose_run_from_folders(
    saved: tuple[str, str], faces_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDPERSONA_DATA", str(faces_folder))
    base, adapter = saved
    common = ["--base", base, "--protocol", str(faces_folder / "tiny.protocol.json"), "--json"]
    common += ["--cache", str(tmp_path / "cache")]
    first = run("reconstruction", *common, "-o", str(tmp_path / "r"), "--quick")
    assert json.loads(first.stdout)["kind"] == "reconstruction"
    assert (tmp_path / "r" / "reconstruction.md").read_text().startswith("| photos")
    common += ["--adapter", adapter, "--finder", "dlib", "--set", "net_end=0.5"]
    result = json.loads(run("pose", *common, "-o", str(tmp_path / "p")).stdout)
    assert result["settings"]["adapter"] == adapter and len(result["people"]) == 3
    assert result["settings"]["adapter_options"] == {"net_end": 0.5}
    assert "adapter_options {'net_end': 0.5}" in (tmp_path / "p" / "pose.md").read_text()
    assert (tmp_path / "p" / "pose.png").is_file()


def test_identity_and_prompt_run_from_folders(
    saved: tuple[str, str], faces_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDPERSONA_DATA", str(faces_folder))
    base, adapter = saved
    common = ["--base", base, "--adapter", adapter, "--protocol", str(faces_folder / "tiny.protocol.json")]
    common += ["--cache", str(tmp_path / "cache"), "--json", "--people", "2", "--steps", "1"]
    who = json.loads(run("identity", *common, "--scales", "1", "-o", str(tmp_path / "i")).stdout)
    assert {row["judge"] for row in who["rows"]} == {"mini-judge"}
    assert [row["row"] for row in who["rows"]][:2] == ["base without identity", "scale 1"]
    assert who["settings"]["protocol"]["name"] == "tiny+people+scales+steps"
    what = json.loads(run("prompt", *common, "-o", str(tmp_path / "p")).stdout)
    assert [row["attribute"] for row in what["rows"]] == ["Smiling", "Young"]
    assert is_marked(tmp_path / "i" / "identity.png") and is_marked(tmp_path / "p" / "prompt.png")


BAD = [
    (["identity", "--scales", "0,x"], "separated by commas"),
    (["identity", "--scales", "0,nan"], "scales"),
    (["identity", "--judge", "mini-jugde"], "did you mean mini-judge"),
    (["identity", "--finder", "yunette"], "yunette"),
    (["identity", "--people", "1"], "people"),
    (["identity", "--base", "mimi"], "did you mean mini"),
    (["identity", "--adapter", "instanid"], "did you mean instantid"),
    (["identity", "--device", "warp"], "warp"),
    (["identity", "--threads", "0"], "threads"),
    (["pose", "--protocol", "none"], "known protocols"),
    (["pose", "--scale", "nan"], "scale"),
    (["prompt", "--steps", "0"], "steps"),
    (["prompt", "--steps", "2000"], "steps"),
    (["prompt", "--scale", "inf"], "scale"),
    (["prompt", "--guidance", "nan"], "guidance"),
    (["prompt", "--classifier", "labeller"], "did you mean labeler"),
    (["prompt", "--set", "net_end=late"], "net_end of instantid is a number"),
    (["identity", "--set", "net_stop=1"], "net_start, net_end, guess_mode"),
    (["pose", "--set", "net_end=1", "--set", "net_end=0.5"], "given twice"),
    (["prompt", "--set", "instantid.net_end=1"], "without an adapter"),
    (["prompt", "--adapter", "none", "--set", "net_end=1"], "no adapter"),
    (["reconstruction", "--base", "mimi"], "did you mean mini"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=lambda value: " ".join(value)[:40])
def test_bad_input_is_one_line(
    words: list[str],
    says: str,
    faces_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IDPERSONA_DATA", str(faces_folder))
    monkeypatch.chdir(tmp_path)
    protocol = [] if "--protocol" in words else ["--protocol", str(faces_folder / "tiny.protocol.json")]
    assert main(["eval", *words, *protocol, "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("idpersona: ") and says in lines[0], lines
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_overwritten(
    saved: tuple[str, str], faces_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("IDPERSONA_DATA", str(faces_folder))
    words = ["eval", "reconstruction", "--base", saved[0], "--cache", str(tmp_path / "cache")]
    words += ["--protocol", str(faces_folder / "tiny.protocol.json"), "-o", str(tmp_path / "r")]
    assert main(words) == 0
    (tmp_path / "r" / "reconstruction.md").write_text("mine")
    capsys.readouterr()
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "r" / "reconstruction.md").read_text() == "mine"
    assert main([*words, "--force"]) == 0
    assert (tmp_path / "r" / "reconstruction.md").read_text() != "mine"


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["eval", "pose", "-o", str(tmp_path / "file" / "r")]) == 2
    assert "cannot write into" in capsys.readouterr().err
