"""The registry of weights: its entries, where weights are found, and fetching them from a hub."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from idpersona.errors import LicenceRefused, MissingWeights, UnknownName
from idpersona.registry import WEIGHTS, get_weight, locate, require_commercial, verify, weight_names
from idpersona.registry.refresh import MANIFEST, build

FILES = {
    "ip-adapter.bin": os.urandom(300_000),
    "ControlNetModel/config.json": b'{"a": 1}',
    "ControlNetModel/diffusion_pytorch_model.safetensors": os.urandom(24_000_000),
    "README.md": b"not asked for",
}
LARGE = {".bin", ".safetensors"}


def test_every_entry_is_complete():
    for name, weight in WEIGHTS.items():
        assert weight.name == name
        assert weight.licence, name
        assert weight.preprocessing, name
        assert set(weight.needs) <= set(WEIGHTS), name
        if weight.place != "embedded":
            assert weight.files, name
        for sha, size in weight.files.values():
            assert (sha is None) == (size is None)
            assert sha is None or len(sha) == 64


PACKS = ("antelopev2", "buffalo_l")
"""Fetched and hashed once."""


def test_only_what_cannot_be_fetched_here_is_unpinned():
    unpinned = {n for n, w in WEIGHTS.items() if any(sha is None for sha, _ in w.files.values())}
    assert unpinned == {n for n, w in WEIGHTS.items() if w.place in ("hub", "hand") and n not in PACKS}


def test_names_of_the_design_are_there():
    assert set(weight_names("base")) == {"mini", "sd15", "sdxl"}
    assert {"dlib", "antelopev2", "buffalo_l"} <= set(weight_names("encoder"))
    assert {"instantid", "instantid-mini"} <= set(weight_names("adapter"))
    with pytest.raises(UnknownName, match="antelopev2"):
        get_weight("antelope2")


def test_commercial():
    require_commercial(["sd15", "sdxl"])
    for name in ("mini", "instantid", "antelopev2", "dlib", "somebody/model"):
        with pytest.raises(LicenceRefused, match=name):
            require_commercial(["sd15", name])


def test_manifest_matches_the_files_on_this_machine():
    manifest = json.loads(MANIFEST.read_text("utf-8"))
    assert build(manifest) == manifest, "run: python -m idpersona.registry.refresh"


def test_package_weights_are_pinned_and_sound():
    checks = verify("dlib")
    assert [check.against for check in checks] == ["pinned sha256"] * 2
    assert all(check.ok for check in checks)


def test_missing_weights_name_places_and_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match="idpersona models pull antelopev2") as caught:
        locate("antelopev2")
    assert str(tmp_path / "antelopev2") in str(caught.value)


def test_a_nested_pack_is_found_and_a_partial_one_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    nested = tmp_path / "antelopev2" / "antelopev2"
    nested.mkdir(parents=True)
    names = list(get_weight("antelopev2").files)
    for name in names[:-1]:
        (nested / name).write_bytes(b"x")
    with pytest.raises(MissingWeights, match=names[-1]):
        locate("antelopev2")
    (nested / names[-1]).write_bytes(b"x")
    assert locate("antelopev2") == nested
    assert not any(check.ok for check in verify("antelopev2"))


def _hashes(content: bytes) -> tuple[str, str]:
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return hashlib.sha256(content).hexdigest(), git


def _entry(name: str, content: bytes) -> dict[str, object]:
    sha256, git = _hashes(content)
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git}
    if Path(name).suffix in LARGE:
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs; hangs up in large files as often as told."""

    protocol_version = "HTTP/1.1"
    hang_ups = 0
    corrupt = False
    ranges: ClassVar[list[str]] = []
    commit = "c" * 40

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "GET":
            return
        if status in (200, 206) and len(body) > 22_000_000 and type(self).hang_ups > 0:
            type(self).hang_ups -= 1
            self.wfile.write(body[:22_000_000])  # the client keeps what it has by tens of megabytes
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/InstantX/InstantID/tree/"):
            entries = [_entry(name, content) for name, content in FILES.items()]
            self._reply(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            return
        if path.startswith("/api/models/InstantX/InstantID"):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": "InstantX/InstantID", "modelId": "x", "sha": self.commit, "siblings": siblings}
            self._reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
            return
        name = path.removeprefix(f"/InstantX/InstantID/resolve/{self.commit}/")
        if name not in FILES:
            self._reply(404, b"", {})
            return
        body = FILES[name]
        sha256, git = _hashes(body)
        large = Path(name).suffix in LARGE
        headers = {"ETag": f'"{sha256 if large else git}"', "X-Repo-Commit": self.commit}
        if type(self).corrupt and large:
            body = body[:-1] + b"!"
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET":
            type(self).ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._reply(206, body[start:], headers)
            return
        self._reply(200, body, headers)


@pytest.fixture
def hub(tmp_path):
    """A hub on this machine, and the environment in which the command line uses it."""
    Hub.ranges, Hub.hang_ups, Hub.corrupt = [], 0, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "IDPERSONA_WEIGHTS": str(tmp_path / "none"),
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    yield environment
    server.shutdown()
    server.server_close()


def models(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "idpersona", "models", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_pull_goes_on_after_a_broken_download_and_verifies(hub):
    Hub.hang_ups = 1
    first = models(hub, "pull", "instantid", "--json")
    done = first if first.returncode == 0 else models(hub, "pull", "instantid", "--json")
    assert done.returncode == 0, done.stderr
    assert any(int(r.removeprefix("bytes=").split("-")[0]) > 0 for r in Hub.ranges), Hub.ranges
    folder = Path(json.loads(done.stdout)["location"])
    for name, content in FILES.items():
        assert (folder / name).exists() == (name != "README.md")
        assert name == "README.md" or (folder / name).read_bytes() == content
    # The names of the cached blobs are the hashes that the hub stated: no network is needed any more.
    offline = hub | {"HF_HUB_OFFLINE": "1"}
    blob = (folder / "ip-adapter.bin").resolve()
    blob.write_bytes(b"?" + blob.read_bytes()[1:])
    broken = models(offline, "verify", "instantid")
    assert broken.returncode == 1
    assert "ip-adapter.bin: BROKEN" in broken.stdout
    assert "ControlNetModel/config.json: ok" in broken.stdout
    assert "diffusion_pytorch_model.safetensors: ok" in broken.stdout


def test_pull_refuses_what_is_not_what_the_hub_stated(hub):
    Hub.corrupt = True
    done = models(hub, "pull", "instantid")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "instantid" in done.stderr.splitlines()[-1]


def test_pull_without_a_hub_is_one_line(hub):
    done = models(hub | {"HF_HUB_OFFLINE": "1"}, "pull", "sdxl")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot fetch 'sdxl'" in done.stderr
