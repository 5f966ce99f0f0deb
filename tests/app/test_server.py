"""The whole program: how it starts, and how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from idpersona.app.sessions import PREFIX


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_while_a_page_is_open_and_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-m", "idpersona", "app", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stderr is not None
        address = program.stderr.readline().split()[4]
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                try:
                    httpx.get(address)
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            with httpx.stream("GET", f"{address}/gradio_api/heartbeat/page", timeout=60) as answer:
                assert answer.status_code == 200
                assert [path.name for path in tmp_path.glob(f"{PREFIX}*")]
                program.send_signal(number)
                assert program.wait(30) is not None
            told = program.stderr.read()
        finally:
            program.kill()
    assert "Traceback" not in told
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
