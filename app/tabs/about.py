"""*About*: what this is, what it cannot, and how to use it decently."""

from __future__ import annotations

import gradio as gr

from idpersona.app.tabs.shared import QUIET, Shared

TEXT = """
## What happens here

A photo is read once by an encoder, which keeps a few hundred numbers that tell this person from others: the
*identity*. A *method* puts the identity into a diffusion model while it draws what the prompt says. An
*edit* first finds the noise from which the model would draw your photo, and draws it again with other
words.

## Limits

* The embedded model `mini` draws faces of 128 by 128 pixels. It is there so that everything can be tried at
  once; start the studio with `--base` for a model of real size.
* Likeness is measured by the encoder that most methods are given, which flatters them. It is a measure, no
  proof.
* Several people need regions that hardly overlap.

## Responsible use

* Use photos of people who agreed. Your answer is written into identities and pictures.
* Every picture says inside that it was generated, with all its settings, but not the photos or the
  identity.
* People can be put on a list of those who may not be used; photos and results are compared with it.
* Photos, identities and pictures stay in this studio's memory and temporary folder, visible to your browser
  only, and are removed after an hour without use, or with the button below. Files that you want to keep you
  must download.
* The embedded weights are for research only, not for commercial use.
"""


def build(shared: Shared) -> None:
    """The tab."""
    gr.Markdown(TEXT, elem_id="about-text")
    remove = gr.Button("Remove everything of mine now", variant="stop", elem_id="about-remove")
    removed = gr.HTML(elem_id="about-removed", elem_classes="idp-status")

    def forget(request: gr.Request) -> str:
        from idpersona.app.markup import hint
        from idpersona.app.running import session_of

        key = session_of(shared.studio, request).key
        shared.studio.engine.cancel(key)
        shared.studio.sessions.remove(key)
        return hint("Everything of this browser was removed. Load the page again to go on.")

    remove.click(forget, None, removed, **QUIET)
