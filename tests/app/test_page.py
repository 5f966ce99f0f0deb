"""The page in a real browser."""

from __future__ import annotations

import time

import numpy as np
import pytest

from idpersona.images import open_photo
from idpersona.provenance import is_marked, read_settings
from tests.app.browser import PROMPT, choose, create, download, pictures, pixels, steps, toast

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def test_create_from_a_sample_and_get_the_settings_back(browse, tmp_path):
    page = browse()
    choose(page, "create", "Sample astronaut")
    page.locator("#create-who-shown img").wait_for()
    steps(page, 3)
    page.locator("#create-consent input").check()
    create(page)
    pictures(page).first.wait_for()
    figure = pictures(page).first
    assert figure.locator("img").get_attribute("alt") == PROMPT
    first = download(page, figure.get_by_text("Download"), tmp_path / "first.png")
    assert is_marked(first)
    settings = read_settings(first)
    assert (settings["prompt"], settings["steps"]) == (PROMPT, 3)
    assert settings["identity"]["consent"] is True

    other = browse()
    other.locator("#create-more button").first.click()
    other.locator("#create-restore input[type=file]").set_input_files(first)
    playwright.expect(other.locator("#create-prompt textarea")).to_have_value(PROMPT)
    playwright.expect(
        other.locator("#create-who").get_by_label("Sample astronaut", exact=True)
    ).to_be_checked()
    playwright.expect(other.locator("#create-seed textarea, #create-seed input")).to_have_value(
        str(settings["seed"])
    )
    other.locator("#create-consent input").check()
    other.locator("#create-start").click()
    again = download(other, pictures(other).first.get_by_text("Download"), tmp_path / "again.png")
    assert np.array_equal(pixels(first), pixels(again))


def test_an_open_seed_is_a_new_one_each_time(browse):
    page = browse()
    choose(page, "create", "Sample person-1")
    steps(page, 1)
    seed = page.locator("#create-seed textarea, #create-seed input")
    assert seed.input_value() == ""
    create(page)
    pictures(page).first.wait_for()
    assert seed.input_value() == ""
    page.locator("#create-lock input").check()
    for _ in range(2):
        count = pictures(page).count()
        page.locator("#create-start").click()
        playwright.expect(pictures(page)).to_have_count(count + 1)
    told = [text.split("·")[0].strip() for text in pictures(page).locator("small").all_inner_texts()]
    assert told[0] == told[1] == f"seed {seed.input_value()}"
    assert told[2] != told[1]
    seed.fill("many")
    page.locator("#create-start").click()
    assert "“Seed” is a whole number" in toast(page)


def test_variations_are_made_of_a_picture(browse, tmp_path):
    page = browse()
    choose(page, "create", "Sample person-1")
    steps(page, 2)
    create(page)
    pictures(page).first.get_by_text("Variations").click()
    playwright.expect(pictures(page)).to_have_count(5)
    # What has no field of its own comes back with a picture, too.
    varied = download(page, pictures(page).first.get_by_text("Download"), tmp_path / "varied.png")
    pictures(page).first.get_by_text("Use settings").click()
    playwright.expect(page.locator("#create-notes")).to_contain_text("Kept from the picture")
    create(page, prompt=PROMPT)
    playwright.expect(pictures(page)).to_have_count(6)
    again = download(page, pictures(page).first.get_by_text("Download"), tmp_path / "again.png")
    assert np.array_equal(pixels(varied), pixels(again))


def test_a_page_that_is_loaded_again_still_has_everything(browse, photo):
    page = browse()
    page.locator("#create-photos input[type=file]").set_input_files(photo)
    chosen = page.locator("#create-who").get_by_label("Photo astronaut photo.jpg", exact=True)
    playwright.expect(chosen).to_be_checked()
    steps(page, 2)
    create(page, prompt="a photo of a woman")
    pictures(page).first.wait_for()
    page.wait_for_timeout(500)
    page.reload()
    pictures(page).first.wait_for()
    playwright.expect(page.locator("#create-prompt textarea")).to_have_value("a photo of a woman")
    page.locator("#create-who").get_by_label("Photo astronaut photo.jpg", exact=True).wait_for()


def test_cancel_stops_the_work(browse, server):
    page = browse()
    choose(page, "create", "Sample astronaut")
    steps(page, 100)
    create(page)
    page.locator("#create-status progress[value]").wait_for()
    page.locator("#create-cancel").click()
    playwright.expect(page.locator("#create-status")).to_contain_text("Cancelled")
    assert not server.studio.engine.busy
    assert pictures(page).count() == 0
    steps_field = page.locator("#create-steps input[type=number]")
    steps_field.fill("2")
    steps_field.blur()
    page.locator("#create-start").click()
    pictures(page).first.wait_for()


def test_a_page_that_is_closed_frees_the_worker(browse, server):
    page = browse()
    choose(page, "create", "Sample astronaut")
    steps(page, 100)
    field = page.locator("#create-count input[type=number]")
    field.fill("8")
    field.blur()
    create(page)
    page.locator("#create-status progress[value]").wait_for()
    assert server.studio.engine.busy
    page.close()
    end = time.monotonic() + 8
    while server.studio.engine.busy and time.monotonic() < end:
        time.sleep(0.05)
    assert not server.studio.engine.busy


def test_edit_a_photo_and_see_before_and_after(browse, photo, tmp_path):
    page = browse()
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-photo input[type=file]").set_input_files(photo)
    page.locator("#edit-seen img").wait_for()
    page.locator("#edit-source textarea, #edit-source input").fill("a photo of a smiling woman")
    page.locator("#edit-prompt textarea, #edit-prompt input").fill(
        "a photo of a smiling woman with eyeglasses"
    )
    page.locator("#edit-start").click()
    handle = page.locator("#edit-result input[type=range]")
    handle.wait_for()
    handle.focus()
    before = page.locator("#edit-result .idp-slider").get_attribute("style")
    page.keyboard.press("ArrowRight")
    assert page.locator("#edit-result .idp-slider").get_attribute("style") != before
    made = download(page, page.locator("#edit-result").get_by_text("Download"), tmp_path / "edit.png")
    settings = read_settings(made)
    assert settings["source"] == "a photo of a smiling woman"
    assert settings["edited"]["path"] == "astronaut photo.jpg"


def test_an_attribute_of_the_face_is_moved(browse, tmp_path):
    page = browse()
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-which input").click()
    page.get_by_role("option", name="Sample astronaut").click()
    page.locator("#edit-attributes button").first.click()
    slider = page.locator("#edit-attribute-smile input[type=range]")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    slider.dispatch_event("pointerup")
    page.locator("#edit-result .idp-slider").wait_for()
    made = download(page, page.locator("#edit-result").get_by_text("Download"), tmp_path / "moved.png")
    [adapter] = read_settings(made)["adapters_of_edit"]
    assert adapter["name"] == "wplus"
    assert adapter["options"]["edit"].startswith("smile=-")


def test_several_people_in_regions(browse, tmp_path):
    page = browse()
    choose(page, "create", "Sample person-1", "Sample person-2")
    page.locator("#create-several input").check()
    boxes = page.locator("#create-regions .idp-box")
    playwright.expect(boxes).to_have_count(2)
    width = page.get_by_label("Sample person-1: width in percent of the picture")
    assert width.input_value() == "50"
    width.fill("40")
    width.blur()
    box = boxes.nth(1).bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] - 400, steps=5)
    page.mouse.up()
    playwright.expect(page.get_by_label("Sample person-2: top in percent of the picture")).to_have_value("0")
    steps(page, 2)
    create(page)
    made = download(page, pictures(page).first.get_by_text("Download"), tmp_path / "both.png")
    regions = [[int(side) for side in text.split(",")] for text in read_settings(made)["identity"]["regions"]]
    assert regions[0] == [0, 13, 51, 115]
    assert regions[1][:2] == [64, 0]
    page.locator("#create-restore input[type=file]").set_input_files(made)
    page.wait_for_timeout(500)
    playwright.expect(boxes).to_have_count(2)


def test_what_is_no_image_is_told_readably(browse, tmp_path, bomb):
    page = browse()
    (tmp_path / "notes.png").write_text("these are notes")
    page.locator("#create-photos input[type=file]").set_input_files(tmp_path / "notes.png")
    told = toast(page)
    assert "Notes.png is not an image of a known kind" in told
    assert "Traceback" not in told
    page.reload()
    page.locator("#create-photos input[type=file]").set_input_files(bomb)
    assert "more pixels than the 40,000,000 allowed" in toast(page)


def test_a_photo_of_20_megapixels(browse, tmp_path):
    open_photo("sample:astronaut").resize((4480, 4480)).save(tmp_path / "large.jpg", quality=70)
    page = browse()
    page.locator("#create-photos input[type=file]").set_input_files(tmp_path / "large.jpg")
    playwright.expect(page.locator("#create-who").get_by_label("Photo large.jpg", exact=True)).to_be_checked()
    steps(page, 2)
    create(page)
    pictures(page).first.wait_for()


def test_mistakes_are_told_in_words(browse):
    page = browse()
    create(page)
    assert "whose picture shall it be" in toast(page).lower()
    page.reload()
    choose(page, "create", "Sample astronaut")
    create(page, prompt="")
    assert "“Prompt”" in toast(page)


def test_two_browsers_do_not_see_each_other(browse, photo):
    one, two = browse(), browse()
    for page, person in ((one, "Sample person-1"), (two, "Sample person-2")):
        choose(page, "create", person)
        steps(page, 4)
    one.locator("#create-photos input[type=file]").set_input_files(photo)
    one.locator("#create-who").get_by_label("Photo astronaut photo.jpg", exact=True).uncheck()
    choose(one, "create", "Sample person-1")
    create(one, prompt="a photo of a man")
    create(two, prompt="a photo of a woman")
    for page, told in ((one, "a photo of a man"), (two, "a photo of a woman")):
        pictures(page).first.wait_for()
        assert pictures(page).count() == 1
        assert pictures(page).first.locator("img").get_attribute("alt") == told
    address = pictures(one).first.locator("img").get_attribute("src")
    assert one.request.get(f"{one.url}{address}").status == 200
    assert two.request.get(f"{two.url}{address}").status == 404
    two.reload()
    two.wait_for_selector("#create-start")
    assert two.locator("#create-who").get_by_label("Photo astronaut photo.jpg", exact=True).count() == 0


def test_an_identity_is_read_compared_merged_saved_and_deleted(browse, tmp_path):
    from idpersona.identity import Identity

    page = browse()
    page.get_by_role("tab", name="Identities").click()
    choose(page, "identities", "Sample person-1")
    page.locator("#identities-faces svg rect").wait_for(state="attached")
    page.locator("#identities-name textarea, #identities-name input").fill("Ada")
    page.locator("#identities-consent input").check()
    page.locator("#identities-start").click()
    row = page.locator("#identities-list tbody tr")
    playwright.expect(row).to_have_count(1)
    saved = download(page, row.get_by_text("Save"), tmp_path / "ada.safetensors")
    assert Identity.load(saved).consent
    page.locator("#identities-load input[type=file]").set_input_files(saved)
    playwright.expect(row).to_have_count(2)
    page.locator("#identities-who").get_by_label("Identity ada", exact=True).wait_for()
    page.wait_for_timeout(300)
    page.locator("#identities-who").get_by_label("Sample person-1", exact=True).uncheck()
    choose(page, "identities", "Identity Ada", "Identity ada")
    page.locator("#identities-compare").click()
    playwright.expect(page.locator("#identities-likeness")).to_contain_text("Likely one person")
    page.locator("#identities-merge").click()
    playwright.expect(row).to_have_count(3)
    page.locator("#identities-delete").click()
    playwright.expect(row).to_have_count(1)


def test_methods_and_strengths_are_compared(browse):
    page = browse()
    page.get_by_role("tab", name="Compare").click()
    choose(page, "compare", "Sample astronaut")
    page.locator("#compare-prompt textarea, #compare-prompt input").fill(PROMPT)
    field = page.locator("#compare-steps input[type=number]")
    field.fill("2")
    field.blur()
    page.locator("#compare-start").click()
    playwright.expect(page.locator("#compare-grid img")).to_have_count(6)
    grid = page.locator("#compare-grid")
    assert grid.locator("tbody th").all_inner_texts() == ["instantid", "infinite-id", "wplus"]
    playwright.expect(grid).to_contain_text("strength 0.5")
    # Every method is measured by the same encoder.
    playwright.expect(grid.locator("caption")).to_contain_text("measured by dlib")
    cells = grid.locator("tbody td").all_inner_texts()
    assert len(cells) == 6
    assert all(text.startswith(("likeness 0.", "likeness -0.", "no face found by dlib")) for text in cells)
    assert sum(text.startswith("likeness") for text in cells) >= 4

    # The pictures stay, and the settings of one go where more of it can be made.
    page.reload()
    page.wait_for_selector("#create-start")
    page.get_by_role("tab", name="Compare").click()
    past = page.locator("#compare-gallery figure")
    playwright.expect(past).to_have_count(6)
    playwright.expect(page.locator("#compare-prompt textarea, #compare-prompt input")).to_have_value(PROMPT)
    past.first.get_by_text("Use settings").click()
    playwright.expect(page.locator("#create-start")).to_be_visible()
    playwright.expect(page.locator("#create-method input")).to_have_value("wplus")
    playwright.expect(page.locator("#create-prompt textarea")).to_have_value(PROMPT)


def test_models_and_devices_are_shown(browse):
    page = browse()
    page.get_by_role("tab", name="Models").click()
    playwright.expect(page.locator("#models-list tbody tr").first).to_contain_text("mini")
    page.locator("#models-examine").click()
    playwright.expect(page.locator("#models-device")).to_contain_text("sdpa float32")


def test_everything_is_removed_when_it_is_asked_for(browse, server, photo):
    page = browse()
    page.locator("#create-photos input[type=file]").set_input_files(photo)
    page.locator("#create-who").get_by_label("Photo astronaut photo.jpg", exact=True).wait_for()
    folders = set(server.studio.sessions.root.iterdir())
    page.get_by_role("tab", name="About").click()
    page.locator("#about-remove").click()
    playwright.expect(page.locator("#about-removed")).to_contain_text("was removed")
    assert set(server.studio.sessions.root.iterdir()) < folders


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["Create", "Edit", "Identities", "Compare", "Models", "About"])
def test_everybody_can_use_it(browse, tab, scheme):
    """No serious violation of the accessibility rules of axe."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browse(color_scheme=scheme)
    if tab == "Create":
        choose(page, "create", "Sample person-1", "Sample person-2")
        page.locator("#create-several input").check()
        page.locator("#create-regions .idp-box").first.wait_for()
    if tab == "Identities":
        page.get_by_role("tab", name=tab).click()
        choose(page, "identities", "Sample person-1")
        page.locator("#identities-faces svg rect").wait_for(state="attached")
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(300)
    found = axe.Axe().run(page).response["violations"]
    serious = {
        f"{violation['id']}: {node['target']} {node['html'][:160]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    }
    assert serious == set()


def test_it_fits_on_a_phone(browse):
    page = browse()
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.wait_for_selector("#create-start")
    for tab in ("Create", "Edit", "Identities", "Compare", "Models", "About"):
        wanted = page.get_by_role("tab", name=tab).first
        if not wanted.is_visible():
            page.locator(".overflow-menu button").first.click()
            wanted = page.locator(".overflow-dropdown button", has_text=tab)
        wanted.click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
        if tab in ("Create", "Edit", "Identities", "Compare"):
            start = page.locator(f"#{tab.lower()}-start").bounding_box()
            results = {"Create": "gallery", "Edit": "result", "Identities": "faces", "Compare": "grid"}
            result = page.locator(f"#{tab.lower()}-{results[tab]}").bounding_box()
            assert start["width"] > 120
            assert result["width"] > 300
            assert result["y"] > start["y"]
