"""Help, exit statuses, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMANDS = [
    "identify",
    "generate",
    "edit",
    "compare",
    "people",
    "people add",
    "people list",
    "people remove",
    "people others",
    "train",
    "export",
    "eval",
    "eval identity",
    "eval prompt",
    "eval pose",
    "eval reconstruction",
    "eval inversion",
    "eval editing",
    "eval pie-bench",
    "models",
    "models list",
    "models pull",
    "models verify",
    "doctor",
]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example(run, command):
    out = run(*command.split(), "--help").done().out
    assert "Example" in out
    assert "Usage: idpersona" in out


def test_help_and_version_load_no_heavy_library():
    script = f"""
import sys
import idpersona
from idpersona.cli.main import main
for command in {["", *COMMANDS]!r}:
    assert main([*command.split(), "--help"]) == 0, command
assert main(["--version"]) == 0
assert main([]) == 0
heavy = {{"torch", "diffusers", "transformers", "onnxruntime", "insightface", "dlib", "cv2"}}
heavy &= set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)


def test_the_module_runs_like_the_command(tmp_path):
    words = [sys.executable, "-m", "idpersona", "identify", "absent.jpg", "-o", "x.safetensors"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["idpersona: no such photo: absent.jpg"]
    assert list(tmp_path.iterdir()) == []


def test_unknown_command(run):
    run("generat").refused("generat")


def test_defects_are_one_line_and_status_1(run, monkeypatch):
    from idpersona.training import run as training

    def broken(*args: object, **options: object) -> None:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(training, "run_recipe", broken)
    outcome = run("train", "absent.yaml", "--minutes", "1")
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == 1
    assert "IDPERSONA_DEBUG" in outcome.err
    monkeypatch.setenv("IDPERSONA_DEBUG", "1")
    with pytest.raises(IndexError):
        run("train", "absent.yaml", "--minutes", "1")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("generate --photo a b --prompt x", "generate --photo a --photo b --prompt x"),
        ("generate --adapter a --adapter b c", "generate --adapter a --adapter b --adapter c"),
        (
            "identify --encoder dlib antelopev2 a.jpg b.jpg",
            "identify --encoder dlib --encoder antelopev2 a.jpg b.jpg",
        ),
        ("identify a.jpg b.jpg -o x", "identify a.jpg b.jpg -o x"),
        ("compare a b", "compare a b"),
    ],
)
def test_list_options_take_several_values(typed, meant):
    from idpersona.cli.arguments import spread

    assert spread(typed.split()) == meant.split()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("instantid", ("instantid", None)),
        ("instantid:0.8", ("instantid", 0.8)),
        ("owner/name:0", ("owner/name", 0.0)),
        ("./a:b/c", ("./a:b/c", None)),
    ],
)
def test_names_with_scales(typed, meant):
    from idpersona.cli.arguments import scaled

    assert scaled(typed, "--adapter") == meant


def test_train_refuses(run, tmp_path):
    run("train", tmp_path / "absent.yaml").refused("absent.yaml")
    run("train", "absent.yaml", "--minutes", "nan").refused("--minutes")
    run("train", "absent.yaml", "--minutes", 0).refused("no recipe")
    run("train", "a" * 300).refused("too long")
    (tmp_path / "bad.yaml").write_text("objective: [")
    run("train", tmp_path / "bad.yaml").refused("bad.yaml")


GOOD = {
    "name": "mine",
    "objective": {"kind": "attributes", "part": "labeler"},
    "loop": {"steps": 2, "batch_size": 4, "precision": "no"},
    "output": "run",
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loop": {"stepz": 2, "batch_size": 4}}, "did you mean steps"),
        ({"loop": {"steps": 0, "batch_size": 4}}, "loop.steps"),
        ({"loop": {"steps": 2, "batch_size": -1}}, "loop.batch_size"),
        ({"loop": {"steps": 2, "batch_size": 4, "precision": "fp8"}}, "loop.precision"),
        ({"optimiser": {"lr": float("nan")}}, "optimiser.lr"),
        ({"objective": {"kind": "atributes"}}, "did you mean attributes"),
        ({"output": "file/run"}, "no writable folder"),
        ({"output": "full"}, "holds no run"),
    ],
)
def test_recipes_are_refused_in_one_line(run, tmp_path, monkeypatch, changes, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "mine.yaml").write_text(json.dumps(GOOD | changes).replace("NaN", ".nan"))
    run("train", "mine.yaml").refused(says)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "full", "mine.yaml"}
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("group", ["eval", "models", "people"])
def test_a_group_without_a_command_is_one_short_line(run, group):
    assert len(run(group).refused("command").err) < 80


def test_doctor(run):
    outcome = run("doctor", "--json")
    findings = json.loads(outcome.out)
    areas = {finding["area"] for finding in findings}
    assert {"version", "device", "kernel", "provider", "weights", "safety"} <= areas
    assert all(finding["fix"] for finding in findings if finding["state"] in ("absent", "broken"))
    versions = {finding["what"] for finding in findings if finding["area"] == "version"}
    assert {"torch", "diffusers", "opencv-python", "scikit-image", "pydantic"} <= versions
    assert "ruff" not in versions
    provider = next(finding for finding in findings if finding["area"] == "provider")
    assert "ExecutionProvider" in provider["detail"]
    assert outcome.status == (1 if any(finding["state"] == "broken" for finding in findings) else 0)


def test_doctor_sees_a_damaged_people_registry(run, monkeypatch, tmp_path):
    (tmp_path / "people.safetensors").write_bytes(b"damaged")
    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "people.safetensors"))
    outcome = run("doctor")
    assert outcome.status == 1
    assert any("people" in line and line.startswith("broken") for line in outcome.out.splitlines())
