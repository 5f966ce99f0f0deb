"""``idpersona app``: the studio in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example: idpersona app --port 7860"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("app", epilog=EPILOG)(studio)


def studio(
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen at; the default is this machine only.")
    ] = "127.0.0.1",
    share: Annotated[
        bool, typer.Option("--share", help="Open a public address through Gradio's relay, too.")
    ] = False,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:PASSWORD|@FILE",
            help="Password of page and interface; IDPERSONA_APP_AUTH keeps it out of the list of processes.",
        ),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="Let anybody use a studio that others reach.")
    ] = False,
    base: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DIR|HUB_ID", help="Models offered, the first chosen first [default: installed]."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|HUB_ID", help="Adapters offered besides those of the registry."),
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE", help="LoRA files offered.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps [default: the best here].")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16", help="[default: fp32 on the CPU, else fp16]")
    ] = None,
    rate: Annotated[int, typer.Option(help="Jobs per minute and client.")] = 60,
    minutes: Annotated[float, typer.Option(help="How long a job may take while others wait.")] = 30.0,
    max_size: Annotated[int, typer.Option(help="Pixels of the longer side of a picture.")] = 2048,
    require_consent: Annotated[
        bool, typer.Option("--require-consent", help="Refuse people without the consent flag.")
    ] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Refuse non-commercial weights.")] = False,
) -> None:
    """Open the studio: a web page for all of this, and an OpenAI-compatible interface beside it.

    Pictures are made by one worker; photos and pictures of a browser are seen by that browser only, and are
    removed after an hour without use.
    """
    from idpersona.app.settings import Settings, parse_auth

    settings = Settings(
        host=host,
        port=port,
        share=share,
        auth=parse_auth(auth),
        open_to_all=open_to_all,
        bases=tuple(base or ()),
        adapters=tuple(adapter or ()),
        loras=tuple(lora or ()),
        device=device,
        dtype=dtype,
        rate=rate,
        minutes=minutes,
        max_size=max_size,
        require_consent=require_consent,
        commercial=commercial,
    ).checked()

    from idpersona.app.server import serve

    serve(settings)
