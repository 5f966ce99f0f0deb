"""The page: its tabs, and what all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from idpersona.app.endpoints import add_endpoints
from idpersona.app.studio import Studio
from idpersona.app.tabs import about, compare, create, edit, identities, models
from idpersona.app.tabs.shared import Shared

HERE = Path(__file__).parent
TITLE = "idpersona studio"
COLOURS: dict[str, str] = {
    # The theme's own are too faint for many eyes: every text has a contrast of 4.5 or more.
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_100",
    "block_title_background_fill": "none",
    "block_title_background_fill_dark": "none",
    "block_title_padding": "0",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_100",
    "block_label_background_fill": "*neutral_100",
    "block_label_background_fill_dark": "*neutral_800",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "checkbox_label_background_fill_selected": "*primary_700",
    "checkbox_label_background_fill_selected_dark": "*primary_700",
    "checkbox_label_text_color_selected": "white",
    "checkbox_label_text_color_selected_dark": "white",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
}


def style() -> dict[str, Any]:
    """What Gradio takes when the page is put into a server: colours, style sheet, scripts."""
    from gradio.themes import Soft

    theme = Soft(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(**COLOURS)
    return {
        "theme": theme,
        "css": (HERE / "page.css").read_text("utf-8"),
        "head": '<meta name="description" content="Pictures and edits that keep who is in them">',
        "js": (HERE / "page.js").read_text("utf-8"),
    }


def make_page(studio: Studio) -> gr.Blocks:
    """The whole page, for one studio."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            '<header class="idp-head"><h1>idpersona studio</h1>'
            "<p>Give a photo of someone, say what the picture shall show, and it stays the same person.</p>"
            "</header>"
        )
        shared = Shared(studio, page)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Create", id="create", elem_id="tab-create") as tab:
                create.build(shared)
            shared.tabs.append(tab)
            with gr.Tab("Edit", id="edit", elem_id="tab-edit") as tab:
                edit.build(shared)
            shared.tabs.append(tab)
            with gr.Tab("Identities", id="identities", elem_id="tab-identities") as tab:
                identities.build(shared)
            shared.tabs.append(tab)
            with gr.Tab("Compare", id="compare", elem_id="tab-compare") as tab:
                compare.build(shared)
            shared.tabs.append(tab)
            with gr.Tab("Models", id="models", elem_id="tab-models"):
                models.build(shared)
            with gr.Tab("About", id="about", elem_id="tab-about"):
                about.build(shared)
        shared.connect()
        add_endpoints(studio)
    return page
