"""*Models*: what is installed, under which licence, and what computes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from html import escape

import gradio as gr

from idpersona.app import markup
from idpersona.app.running import session_of, toast
from idpersona.app.tabs.shared import JOB, Shared
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models


def build(shared: Shared) -> None:
    """The tab."""
    studio = shared.studio
    gr.HTML(_weights(), elem_id="models-list")
    if not studio.settings.public:
        # Whoever reaches a public studio could fill its disc.
        from idpersona.registry import WEIGHTS

        pulled = [weight.name for weight in WEIGHTS.values() if weight.place == "hub"]
        with gr.Row():
            which = gr.Dropdown(pulled, label="Fetch from the hub", value=None, elem_id="models-which")
            fetch = gr.Button("Fetch", elem_id="models-fetch")
        fetched = gr.HTML(elem_id="models-fetched", elem_classes="idp-status")

        async def pull_one(name: str | None, request: gr.Request) -> AsyncIterator[str]:
            from idpersona.registry import pull, require_commercial

            if not name:
                yield markup.hint("Choose weights first.")
                return
            size = WEIGHTS[name].size if name in WEIGHTS else None
            told = "" if size is None else f" ({size / 1e6:,.0f} MB)"
            yield markup.hint(f"Fetching {name}{told}; its progress is in the studio's terminal …")
            try:
                session_of(studio, request)
                if studio.settings.commercial:
                    require_commercial([name])
                await asyncio.to_thread(pull, name)
            except Exception as error:
                raise toast(error) from None
            yield markup.hint(f"{name} is here and verified. Start the studio again to use it.")

        fetch.click(pull_one, which, fetched, **JOB)
    show = gr.Button("Show device and kernels", elem_id="models-examine")
    found = gr.HTML(elem_id="models-device")

    async def examine(request: gr.Request) -> str:
        def work(models: Models, _listener: Listener) -> str:
            from idpersona.examine import examine as look

            rows = [
                [escape(one.what), one.state, escape(one.detail)]
                for one in look()
                if one.area in ("device", "kernel", "provider")
            ]
            loaded = models.base and studio.catalogue.public(models.base)
            rows.append(["model in memory", "ok" if loaded else "note", escape(loaded or "none yet")])
            return markup.table(["What", "State", "Detail"], rows, "Device and kernels in use")

        try:
            ticket = studio.engine.soon(session_of(studio, request).key, work)
            while not ticket.ended.is_set():
                await asyncio.sleep(0.05)
            return ticket.wait(0)
        except Exception as error:
            raise toast(error) from None

    show.click(examine, None, found, **JOB)


def _weights() -> str:
    from idpersona.registry import WEIGHTS, installed

    rows: list[list[str]] = []
    for weight in WEIGHTS.values():
        here = "yes" if installed(weight.name) is not None else "no"
        size = "?" if weight.size is None else f"{weight.size / 1e6:,.0f} MB"
        use = "" if weight.commercial else " (not for commercial use)"
        rows.append(
            [escape(weight.name), weight.kind, here, size, escape(weight.licence) + use, escape(weight.note)]
        )
    return markup.table(["Name", "Kind", "Here", "Size", "Licence", "Note"], rows, "Weights")
