"""What a studio offers, and what people call it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from idpersona.app.catalogue import make_catalogue
from idpersona.app.settings import Settings, parse_auth
from idpersona.app.speech import LABELS, speak
from idpersona.errors import BadInput, IdPersonaError, UnknownName

ROOT = Path(__file__).parents[2]


def test_what_is_installed_is_offered():
    offered = make_catalogue((), (), ())
    assert next(iter(offered.bases)) == "mini"
    assert offered.methods("mini") == ["instantid", "infinite-id", "wplus", "anymaker"]
    assert offered.methods(None, "object") == ["anymaker"]
    assert offered.helpers("mini") == ["decor"]
    assert offered.defaults(None)["steps"] > 1
    label, names = offered.attributes("mini")
    assert label == "wplus"
    assert "smile" in names


def test_folders_are_called_by_their_name_and_paths_stay_here(tmp_path):
    for place in ("one/model", "two/model"):
        (tmp_path / place).mkdir(parents=True)
    lora = tmp_path / "style.safetensors"
    lora.write_bytes(b"x")
    offered = make_catalogue([str(tmp_path / "one/model"), str(tmp_path / "two/model")], (), [str(lora)])
    assert list(offered.bases)[:3] == ["model", "model-2", "mini"]
    assert offered.base(None) == str(tmp_path / "one/model")
    assert offered.lora("style") == lora
    told = offered.public(
        {"base": str(tmp_path / "two/model"), "weights": {str(lora): "sha"}, "n": [1, "mini"]}
    )
    assert told == {"base": "model-2", "weights": {"style": "sha"}, "n": [1, "mini"]}
    assert str(tmp_path) not in json.dumps(told)


def test_what_runs_on_a_folder_is_asked_once_and_loads_nothing(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    offered = make_catalogue([str(tmp_path / "model")], (), ())

    def loads(*given, **_):
        raise AssertionError(f"{given} was loaded")

    monkeypatch.setattr("idpersona.adapters.load_adapter", loads)
    assert offered.methods("model") == []
    assert offered.methods("mini") == offered.methods("mini")
    asked = []
    from idpersona.app import catalogue

    monkeypatch.setattr(catalogue, "adapters_reading", lambda *given: asked.append(given))
    assert "instantid" in offered.methods("mini")
    assert asked == []


@pytest.mark.parametrize("name", ["/etc", "sd15; rm", "../mini", "hub/model", ""])
def test_nothing_else_can_be_asked_for(name):
    offered = make_catalogue((), (), ())
    for find in (offered.base, offered.adapter, offered.lora):
        if not (find == offered.base and not name):
            with pytest.raises(UnknownName):
                find(name)


@pytest.mark.parametrize(
    "given",
    [
        (("nowhere/at/all",), (), ()),
        ((), ("./nowhere",), ()),
        ((), (), ("nowhere.safetensors",)),
        ((), (), ("a.bin",)),
    ],
)
def test_what_is_not_there_is_refused_at_the_start(given):
    with pytest.raises(IdPersonaError):
        make_catalogue(*given)


@pytest.mark.parametrize("told", [{"host": "0.0.0.0"}, {"share": True}, {"host": "192.168.1.2"}])
def test_others_are_let_in_by_a_password_or_on_purpose(told):
    with pytest.raises(BadInput, match="--auth USER:PASSWORD"):
        Settings(**told).checked()
    assert Settings(**told, auth=("a", "b")).checked().public
    assert Settings(**told, open_to_all=True).checked().public
    assert not Settings().checked().public


@pytest.mark.parametrize(
    "told", [{"port": -1}, {"port": 70_000}, {"rate": 0}, {"dtype": "int8"}, {"host": " "}]
)
def test_settings_out_of_range_are_refused(told):
    with pytest.raises(IdPersonaError):
        Settings(**told).checked()


def test_a_password_comes_from_the_option_a_file_or_the_environment(tmp_path, monkeypatch):
    assert parse_auth(None) is None
    assert parse_auth("me:a:b") == ("me", "a:b")
    (tmp_path / "secret").write_text("me:word\n")
    assert parse_auth(f"@{tmp_path / 'secret'}") == ("me", "word")
    monkeypatch.setenv("IDPERSONA_APP_AUTH", "you:there")
    assert parse_auth(None) == ("you", "there")
    for wrong in ("me", ":word", "me:", "@/nowhere", "me:\n"):
        with pytest.raises(BadInput, match="--auth"):
            parse_auth(wrong)


def test_messages_use_the_words_of_the_page():
    assert speak("--pose needs an adapter") == "“Pose photo” needs an adapter"
    assert speak("give --size, as 64x64; -n 3") == "Give “Size”, as 64x64; “Number of pictures” 3"
    names = {"/tmp/x/ab.img": "me.jpg"}
    assert speak("no face found in /tmp/x/ab.img", names) == "No face found in me.jpg"
    assert speak("cannot read /tmp/x/other.png: why", names) == "Cannot read a file of the studio: why"


def test_every_option_that_a_job_names_has_a_label():
    """Messages of the rooms that the studio uses."""
    rooms = [
        ROOT / "idpersona" / "jobs",
        ROOT / "idpersona" / "safety",
        ROOT / "idpersona" / "seams",
        ROOT / "adapters",
    ]
    named: set[str] = set()
    for room in rooms:
        for file in room.rglob("*.py"):
            for line in file.read_text("utf-8").splitlines():
                if "raise " in line or '"' in line:
                    named |= set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)(?![\w-])", line))
    known = {"--from", "--output", "--save-inversion", "--for", "--subject"}
    assert named - set(LABELS) - known == set()


def test_the_page_is_there_before_torch():
    """Which takes longer to import than a page may take to open."""
    import subprocess
    import sys

    code = "import sys, idpersona.app.server, idpersona.app.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
