"""How fast, flat and clean the studio is: ``python benchmarks/studio.py [--requests 50] [--clients 8]``.

Starts ``idpersona app`` as a user does. Measures the time until the page can be used and the first picture is
there (where a Chromium is installed), what a cancelled job still does, and sends requests of several people
from several clients at once: every answer is compared with the picture that the same request gives alone, and
memory and temporary files are looked at before and after. Fails when a bound below is broken.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.app.sessions import LOCK

PAGE, PICTURE, STEPS, GROWTH = 5.0, 20.0, 2, 0.05
"""Seconds until the page, until the first picture; steps after a cancel; growth of memory."""
PEOPLE = ("astronaut", "person-1", "person-2", "person-3", "person-4")
PROMPT = "a photo of a smiling person"


@contextmanager
def studio(folder: Path, *words: str) -> Iterator[tuple[str, int, float]]:
    """A studio as a process: its address, process number, and when its command was given."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    command = [sys.executable, "-m", "idpersona", "app", "--port", str(port), *words]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE)
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).close()
            break
        except OSError:
            if process.poll() is not None:
                raise SystemExit(
                    f"the studio ended: {(process.stderr or io.BytesIO()).read().decode()}"
                ) from None
            time.sleep(0.02)
    try:
        yield address, process.pid, begin
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def files_of(folder: Path) -> list[str]:
    """Files below a folder, but for the one in which onnxruntime numbers its sessions."""
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".ses"
    ]


def first_picture(address: str, begin: float) -> dict[str, float]:
    """Seconds from the command until the page can be used, and from there until the first picture."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return {}
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.locator("#create-who").get_by_label("Sample astronaut", exact=True).check()
        usable = time.monotonic()
        page.locator("#create-prompt textarea").fill("a photo of a smiling woman")
        page.locator("#create-start").click()
        page.locator("#create-gallery figure img").first.wait_for(timeout=120_000)
        seen = time.monotonic()
        browser.close()
    return {"page_usable_s": usable - begin, "first_picture_s": seen - usable, "from_command_s": seen - begin}


def cancelled() -> dict[str, float]:
    """Steps and seconds that a job still takes after it was called off."""
    from idpersona.app.asks import Create, Person
    from idpersona.app.settings import Settings
    from idpersona.app.studio import Studio

    made = Studio(Settings(device="cpu"))
    try:
        session = made.sessions.get("me")
        ask = Create(people=(Person(photos=("sample:astronaut",)),), prompt=PROMPT, steps=200, seed=1)
        ticket = made.create(session, ask)
        while ticket.step < 20:
            time.sleep(0.001)
        at, begin = ticket.step, time.monotonic()
        made.engine.cancel("me")
        ticket.ended.wait(60)
        seconds = time.monotonic() - begin
        return {"steps_after_cancel": ticket.step - at, "seconds_after_cancel": seconds}
    finally:
        made.close()


def request(address: str, person: str, seed: int) -> dict[str, Any]:
    """One answer of the interface."""
    import openai

    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    try:
        made = client.images.generate(
            prompt=PROMPT, extra_body={"seed": seed, "steps": 4, "identity": {"sample": person}}
        )
    except openai.APIStatusError as error:
        return {"status": error.status_code, "reason": error.message}
    one = made.data[0] if made.data else None
    assert one is not None
    extra = one.model_extra or {}
    picture = Image.open(io.BytesIO(base64.b64decode(one.b64_json or "")))
    return {
        "status": 200,
        "pixels": np.asarray(picture.convert("RGB")),
        "photos": extra["identity"]["photos_sha256"],
        "seed": extra["settings"]["seed"],
    }


def load(address: str, pid: int, folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """Many requests at once: what came back, and what stayed."""
    asked = [(PEOPLE[number % len(PEOPLE)], 100 + number % 7) for number in range(requests)]
    alone = {pair: request(address, *pair) for pair in dict.fromkeys(asked)}
    before = resident(pid)
    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda pair: request(address, *pair), asked))
    seconds = time.monotonic() - begin
    time.sleep(1)
    after = resident(pid)
    mixed = 0
    for pair, answer in zip(asked, answers, strict=True):
        if answer["status"] == 200:
            known = alone[pair]
            same = answer["photos"] == known["photos"] and answer["seed"] == pair[1]
            mixed += not (same and np.array_equal(answer["pixels"], known["pixels"]))
    statuses = [answer["status"] for answer in answers]
    left = [one for one in files_of(folder) if not one.endswith(LOCK)]  # which it holds while it runs
    return {
        "requests": requests,
        "clients": clients,
        "answered": statuses.count(200),
        "refused": {str(answer["status"]): answer["reason"] for answer in answers if answer["status"] != 200},
        "people_told_apart": len({tuple(answer["photos"]) for answer in answers if answer["status"] == 200}),
        "mixed_up": mixed,
        "seconds": seconds,
        "memory_before_mib": before,
        "memory_after_mib": after,
        "memory_growth": after / before - 1,
        "files_left": left,
    }


def main() -> None:
    """Measure, print JSON, and fail where a bound is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path)
    told = parser.parse_args()
    report: dict[str, Any] = {"cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with studio(folder) as (address, _, begin):
            report["first"] = first_picture(address, begin)
        report["left_after_end"] = files_of(folder)
        report["cancel"] = cancelled()
        with studio(folder, "--rate", "1000") as (address, pid, _):
            report["load"] = load(address, pid, folder, told.requests, told.clients)
    print(json.dumps(report, indent=1))
    if told.output is not None:
        told.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    first, many = report["first"], report["load"]
    broken = [
        what
        for what, bad in {
            "page": first.get("page_usable_s", 0) > PAGE,
            "picture": first.get("first_picture_s", 0) > PICTURE,
            "cancel": report["cancel"]["steps_after_cancel"] > STEPS,
            "answers": many["answered"] < told.requests or many["mixed_up"] > 0,
            "memory": abs(many["memory_growth"]) > GROWTH,
            "files": bool(many["files_left"] or report["left_after_end"]),
        }.items()
        if bad
    ]
    if broken:
        raise SystemExit(f"out of bounds: {', '.join(broken)}")


if __name__ == "__main__":
    main()
