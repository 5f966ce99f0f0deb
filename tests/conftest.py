"""What all tests share: threads, and a way to call the command line.

Workers that run side by side take one core each, or they wait for each other all the time.
"""

from __future__ import annotations

import os

import pytest

from idpersona.testing.command import Outcome, Run

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch, OpenCV and onnxruntime start their thread pools.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the people registry and the settings of whoever runs the tests out of them."""
    monkeypatch.delenv("IDPERSONA_PEOPLE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process."""
    from idpersona.cli.main import main

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call
