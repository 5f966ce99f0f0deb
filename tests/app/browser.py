"""What tests do with the page in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PROMPT = "a photo of a smiling woman"
WAIT = 60_000


def open_chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright.expect.set_options(timeout=WAIT / 2)
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=[] if os.geteuid() else ["--no-sandbox"])
        yield browser
        browser.close()


def pages_of(chromium: Any, address: str) -> Iterator[Any]:
    """A function that opens the page as somebody new; nothing may be logged as an error."""
    opened, errors = [], []

    def call(**options: Any) -> Any:
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#create-start")
        opened.append(context)
        return page

    yield call
    for context in opened:
        context.close()
    assert errors == []


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def fill(page: Any, place: str, text: str) -> None:
    page.locator(f"#{place} textarea, #{place} input").first.fill(text)


def steps(page: Any, number: int) -> None:
    page.locator("#create-more button").first.click()
    field = page.locator("#create-steps input[type=number]")
    field.fill(str(number))
    field.blur()


def choose(page: Any, tab: str, *labels: str) -> None:
    for label in labels:
        page.locator(f"#{tab}-who").get_by_label(label, exact=True).check()


def create(page: Any, *, prompt: str = PROMPT) -> None:
    page.locator("#create-prompt textarea").fill(prompt)
    page.locator("#create-start").click()


def pictures(page: Any) -> Any:
    return page.locator("#create-gallery figure")


def toast(page: Any) -> str:
    place = page.locator(".toast-body").first
    place.wait_for()
    return place.inner_text()


def download(page: Any, link: Any, path: Path) -> Path:
    with page.expect_download() as waiting:
        link.click()
    waiting.value.save_as(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))
