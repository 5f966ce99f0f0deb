"""What the tabs of the page share, and what stays when it is loaded again."""

from __future__ import annotations

import numpy as np
import pytest

from idpersona.images import open_photo
from idpersona.provenance import read_settings
from tests.app.browser import choose, create, download, fill, pictures, pixels, steps, tab, toast

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PHOTO = "Photo astronaut photo.jpg"


def options(page, place):
    """What a dropdown offers."""
    page.locator(f"#{place} input").click()
    found = page.get_by_role("option").all_inner_texts()
    page.keyboard.press("Escape")
    return [text.strip().removeprefix("✓").strip() for text in found]


def test_what_is_deleted_is_not_asked_for_any_more(browse, photo):
    page = browse()
    page.locator("#create-photos input[type=file]").set_input_files(photo)
    playwright.expect(page.locator("#create-who").get_by_label(PHOTO, exact=True)).to_be_checked()
    choose(page, "create", "Sample person-1")
    tab(page, "Identities")
    choose(page, "identities", PHOTO)
    page.locator("#identities-delete").click()
    playwright.expect(page.locator("#identities-who").get_by_label(PHOTO, exact=True)).to_have_count(0)
    tab(page, "Create")
    playwright.expect(page.locator("#create-who").get_by_label(PHOTO, exact=True)).to_have_count(0)
    steps(page, 1)
    create(page)
    pictures(page).first.wait_for()


def test_photos_and_identities_are_in_all_tabs_at_once_and_after_a_reload(browse, photo, tmp_path):
    page = browse()
    page.locator("#create-photos input[type=file]").set_input_files(photo)
    tab(page, "Identities")
    choose(page, "identities", PHOTO)
    fill(page, "identities-name", "Ada")
    page.locator("#identities-start").click()
    page.locator("#identities-list tbody tr").wait_for()
    other = tmp_path / "other.png"
    open_photo("sample:person-2").save(other)
    tab(page, "Edit")
    page.locator("#edit-photo input[type=file]").set_input_files(other)
    page.locator("#edit-seen img").wait_for()
    for again in (False, True):
        if again:
            page.reload()
            page.wait_for_selector("#create-start")
        for name in ("create", "identities", "compare"):
            tab(page, name.capitalize())
            who = page.locator(f"#{name}-who")
            for label in (PHOTO, "Photo other.png", "Identity Ada", "Sample astronaut"):
                playwright.expect(who.get_by_label(label, exact=True)).to_be_visible()
        tab(page, "Edit")
        assert {PHOTO, "Photo other.png"} <= set(options(page, "edit-which"))
        tab(page, "Create")
        page.locator("#create-more button").first.click()
        assert {PHOTO, "Photo other.png"} <= set(options(page, "create-pose"))
        page.locator("#create-more button").first.click()


def test_an_edit_gives_its_settings_back(browse, photo, tmp_path):
    page = browse()
    tab(page, "Edit")
    page.locator("#edit-photo input[type=file]").set_input_files(photo)
    page.locator("#edit-seen img").wait_for()
    fill(page, "edit-source", "a photo of a smiling woman")
    fill(page, "edit-prompt", "a photo of a smiling woman with eyeglasses")
    page.locator("#edit-more button").first.click()
    fill(page, "edit-words", "eyeglasses")
    fill(page, "edit-steps", "4")
    fill(page, "edit-guidance", "3,5")
    page.locator("#edit-start").click()
    page.locator("#edit-result .idp-slider").wait_for()
    made = download(page, page.locator("#edit-result").get_by_text("Download"), tmp_path / "edit.png")
    settings = read_settings(made)
    assert (settings["steps"], settings["guidance"]) == (4, 3.5)

    # Dropped by somebody who has the photo, too.
    other = browse()
    tab(other, "Edit")
    other.locator("#edit-photo input[type=file]").set_input_files(photo)
    other.locator("#edit-seen img").wait_for()
    other.locator("#edit-more button").first.click()
    other.locator("#edit-restore input[type=file]").set_input_files(made)
    words = other.locator("#edit-words textarea, #edit-words input")
    playwright.expect(words).to_have_value("eyeglasses")
    other.locator("#edit-start").click()
    again = download(other, other.locator("#edit-result").get_by_text("Download"), tmp_path / "again.png")
    assert np.array_equal(pixels(made), pixels(again))

    # Used again from the list below, after other words were typed.
    fill(page, "edit-words", "hat")
    page.locator("#edit-gallery").get_by_text("Use settings").first.click()
    playwright.expect(page.locator("#edit-words textarea, #edit-words input")).to_have_value("eyeglasses")

    # Where it does not belong, that is said.
    tab(other, "Create")
    other.locator("#create-restore input[type=file]").set_input_files(made)
    assert "drop it under Edit" in toast(other)


def test_each_tab_keeps_what_was_typed(browse):
    page = browse()
    tab(page, "Edit")
    fill(page, "edit-prompt", "a photo of a man")
    tab(page, "Compare")
    fill(page, "compare-prompt", "a photo of a king")
    fill(page, "compare-scales", "0.3")
    tab(page, "Create")
    choose(page, "create", "Sample person-2")
    fill(page, "create-prompt", "a photo of a queen")
    page.wait_for_timeout(300)
    page.reload()
    page.wait_for_selector("#create-start")
    playwright.expect(page.locator("#create-prompt textarea")).to_have_value("a photo of a queen")
    playwright.expect(page.locator("#create-who").get_by_label("Sample person-2", exact=True)).to_be_checked()
    tab(page, "Compare")
    playwright.expect(page.locator("#compare-scales textarea, #compare-scales input")).to_have_value("0.3")
    tab(page, "Edit")
    playwright.expect(page.locator("#edit-prompt textarea, #edit-prompt input")).to_have_value(
        "a photo of a man"
    )


def test_a_strength_that_a_method_does_not_know_cannot_be_set(browse):
    page = browse()
    tab(page, "Edit")
    page.locator("#edit-more button").first.click()
    strength = page.locator("#edit-strength input[type=number]")
    playwright.expect(strength).to_be_enabled()
    page.locator("#edit-method input").click()
    page.get_by_role("option", name="ledits").click()
    playwright.expect(strength).to_be_disabled()


def test_attributes_and_words_go_together(browse, tmp_path):
    page = browse()
    tab(page, "Edit")
    page.locator("#edit-which input").click()
    page.get_by_role("option", name="Sample astronaut").click()
    fill(page, "edit-source", "a photo of a woman")
    fill(page, "edit-prompt", "a photo of a woman with eyeglasses")
    page.locator("#edit-attributes button").first.click()
    field = page.locator("#edit-attribute-smile input[type=number]")
    field.fill("-2")
    page.wait_for_timeout(300)
    field.blur()  # which draws the photo anew, too
    page.locator("#edit-result .idp-slider").wait_for()
    page.locator("#edit-start").click()
    figures = page.locator("#edit-gallery figure")
    playwright.expect(figures).to_have_count(2)
    made = download(page, figures.first.get_by_text("Download"), tmp_path / "both.png")
    settings = read_settings(made)
    assert settings["prompt"] == "a photo of a woman with eyeglasses"
    assert settings["adapters_of_edit"][0]["options"] == {"edit": "smile=-2"}


def test_a_seed_that_is_kept_no_more_is_gone(browse):
    page = browse()
    choose(page, "create", "Sample person-1")
    steps(page, 1)
    page.locator("#create-lock input").check()
    create(page)
    pictures(page).first.wait_for()
    seed = page.locator("#create-seed textarea, #create-seed input")
    playwright.expect(seed).not_to_have_value("")
    page.locator("#create-lock input").uncheck()
    playwright.expect(seed).to_have_value("")


def test_names_that_look_like_a_page_are_only_shown(browse, tmp_path):
    """In the choice, the messages, the list of identities and the toasts."""
    page = browse()
    called = "<img src=x onerror=\"document.title='mine'\"><b>bold.png"
    open_photo("sample:person-1").save(tmp_path / "plain.png")
    data = (tmp_path / "plain.png").read_bytes()
    upload = [{"name": called, "mimeType": "image/png", "buffer": data}]
    page.locator("#create-photos input[type=file]").set_input_files(upload)
    page.locator("#create-who-shown img").first.wait_for()
    broken = [{"name": called, "mimeType": "image/png", "buffer": b"no image"}]
    page.locator("#create-photos input[type=file]").set_input_files(broken)
    assert "is not an image" in toast(page)
    tab(page, "Identities")
    fill(page, "identities-name", called)
    choose(page, "identities", "Sample person-2")
    page.locator("#identities-start").click()
    page.locator("#identities-list tbody tr").wait_for()
    assert page.title() == "idpersona studio"
    assert page.locator(".toast-body b, .toast-body img, #identities-list b").count() == 0
