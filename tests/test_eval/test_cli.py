"""``idpersona eval …`` from the outside: whole runs on folders, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from idpersona.errors import BadInput, UnknownName
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
    second = run("pose", *common, "-o", str(tmp_path / "p"), "--adapter", adapter, "--finder", "dlib")
    result = json.loads(second.stdout)
    assert result["settings"]["adapter"] == adapter and len(result["people"]) == 3
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


def test_bad_input_is_one_line(saved: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="separated by commas"):
        run("identity", "--scales", "0,x")
    with pytest.raises(UnknownName, match="judge"):
        run("identity", "--judge", "mini-jugde", "-o", str(tmp_path))
    with pytest.raises(BadInput, match="known protocols"):
        run("pose", "--protocol", "none")
    assert run("prompt", "--steps", "0").exit_code == 2
    assert run("prompt", "--scale", "inf").exit_code == 2
