"""Pictures of the studio's tabs for the README: ``python benchmarks/screenshots.py [-o assets/screenshots]``.

Shows the public-domain sample and people that the embedded model drew. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from studio import studio

SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
SHADES = {"desktop": "light", "phone": "dark"}


def create(page: Any) -> None:
    """Somebody in three pictures."""
    page.locator("#create-who").get_by_label("Sample astronaut", exact=True).check()
    page.locator("#create-more button").first.click()
    seed = page.locator("#create-seed textarea, #create-seed input")
    count = page.locator("#create-count input[type=number]")
    for field, value in ((seed, "17"), (count, "2")):
        field.fill(value)
        field.blur()
    page.locator("#create-more button").first.click()
    for prompt in ("a photo of a woman with eyeglasses", "a photo of a smiling woman"):
        page.locator("#create-prompt textarea").fill(prompt)
        page.locator("#create-start").click()
        figure = page.locator("#create-gallery figure").first
        figure.get_by_text(prompt).wait_for()
    page.wait_for_timeout(500)


def edit(page: Any) -> None:
    """The sample with hair of another colour."""
    page.locator("#edit-which input").click()
    page.get_by_role("option", name="Sample astronaut").click()
    more = page.locator("#edit-more button").first
    more.click()
    for field, text in (
        ("source", "a photo of a smiling woman"),
        ("prompt", "a photo of a smiling woman with black hair"),
        ("words", "hair"),
    ):
        page.locator(f"#edit-{field} textarea, #edit-{field} input").fill(text)
    more.click()
    page.locator("#edit-start").click()
    page.locator("#edit-result .idp-slider").wait_for()
    page.wait_for_timeout(800)


def identities(page: Any) -> None:
    """Two of the drawn people, and what was read of one."""
    who = page.locator("#identities-who")
    for label in ("Sample person-1", "Sample person-2"):
        who.get_by_label(label, exact=True).check()
    page.locator("#identities-faces svg rect").nth(1).wait_for(state="attached")
    page.locator("#identities-name textarea, #identities-name input").fill("Somebody drawn")
    page.locator("#identities-start").click()
    page.locator("#identities-list tbody tr").first.wait_for()
    page.wait_for_timeout(300)


def compare(page: Any) -> None:
    """Three methods at two strengths."""
    page.locator("#compare-who").get_by_label("Sample astronaut", exact=True).check()
    page.locator("#compare-prompt textarea, #compare-prompt input").fill("a photo of a smiling woman")
    page.locator("#compare-start").click()
    page.locator("#compare-grid img").nth(5).wait_for()
    page.wait_for_timeout(800)


def models(page: Any) -> None:
    """Weights, device and kernels."""
    page.locator("#models-examine").click()
    page.locator("#models-device table").wait_for()


TABS = {
    "Create": create,
    "Edit": edit,
    "Identities": identities,
    "Compare": compare,
    "Models": models,
    "About": lambda page: None,
}


def main() -> None:
    """Draw all of them."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("assets/screenshots"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as name,
        studio(Path(name)) as (address, _, _),
        sync_playwright() as running,
    ):
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for kind, (width, height) in SIZES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=SHADES[kind]
            )
            page = context.new_page()
            page.set_default_timeout(180_000)
            page.goto(address)
            page.wait_for_selector("#create-start")
            for tab, act in TABS.items():
                _open(page, tab)
                act(page)
                page.evaluate("window.scrollTo(0, 0)")
                tall = height if kind == "desktop" else 1700
                page.set_viewport_size({"width": width, "height": tall})
                page.wait_for_timeout(300)
                shot = Image.open(io.BytesIO(page.screenshot()))
                page.set_viewport_size({"width": width, "height": height})
                path = output / f"{tab.lower()}-{kind}.webp"
                shot.convert("RGB").save(path, quality=80, method=6)
                print(path, path.stat().st_size)
            context.close()
        browser.close()


def _open(page: Any, tab: str) -> None:
    """Open a tab; on a narrow page some are behind a button."""
    wanted = page.get_by_role("tab", name=tab)
    if wanted.first.is_visible():
        wanted.first.click()
        return
    page.locator(".overflow-menu button").first.click()
    page.locator(".overflow-dropdown button", has_text=tab).click()


if __name__ == "__main__":
    main()
