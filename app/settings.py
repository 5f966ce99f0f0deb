"""What a studio is started with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from idpersona.errors import BadInput
from idpersona.jobs import limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT = (0, 65535)
MINUTES = (0.1, 1440.0)
AUTH_VARIABLE = "IDPERSONA_APP_AUTH"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the studio listens, what it offers, and what it takes.

    Attributes:
        host, port: address; only this machine reaches the default. Port 0 is one that is free.
        share: open a public address through Gradio's relay, too.
        auth: (user, password) that page and interface ask for; None for nobody.
        open_to_all: the user wants a public studio without a password.
        bases, adapters, loras: offered, besides what is installed; names, folders or hub ids, the first base
            is chosen first. Nothing else can be asked for.
        device, dtype: where and how everything is computed; None for the best.
        commercial: refuse non-commercial weights.
        require_consent: refuse people without the consent flag.
        rate: jobs per minute and client.
        max_upload: bytes of one photo. max_pixels: width times height of one.
        waiting: jobs that may wait. minutes: how long a job may take while others wait.
        max_size: pixels of the longer side of a picture.
        idle: seconds after which an unused session is removed.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    auth: tuple[str, str] | None = None
    open_to_all: bool = False
    bases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    commercial: bool = False
    require_consent: bool = False
    rate: int = 60
    max_upload: int = 32 * 1024 * 1024
    max_pixels: int = 40_000_000
    waiting: int = 32
    minutes: float = 30.0
    max_size: int = 2048
    idle: float = 3600.0

    @property
    def public(self) -> bool:
        """Whether others than this machine reach the studio."""
        return self.share or self.host not in LOOPBACK

    def checked(self) -> Settings:
        """Itself, when everything is in its range and a public studio is meant to be one.

        Raises:
            BadInput: naming the option.
        """
        limits.whole("--port", self.port, PORT)
        limits.whole("--rate", self.rate, (1, 100_000))
        limits.number("--minutes", self.minutes, MINUTES)
        limits.whole("--max-size", self.max_size, limits.SIDE)
        if not self.host.strip():
            raise BadInput("--host is empty")
        if self.public and self.auth is None and not self.open_to_all:
            which = "--share" if self.share else f"--host {self.host}"
            raise BadInput(
                f"{which} lets others use this studio: give --auth USER:PASSWORD (or set {AUTH_VARIABLE}), "
                "or --open-to-all if anybody may"
            )
        limits.device(self.device)
        if self.dtype is not None:
            limits.one_of("dtype", self.dtype, ("fp32", "fp16", "bf16"))
        return self


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """``USER:PASSWORD``, or ``@FILE`` that holds it; None takes it from the environment, if it is there.

    Raises:
        BadInput: of another form, or the file cannot be read.
    """
    told = text if text is not None else os.environ.get(AUTH_VARIABLE)
    if told is None:
        return None
    if told.startswith("@"):
        try:
            told = Path(told[1:]).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--auth: cannot read {told[1:]}") from error
    user, colon, password = told.partition(":")
    if not colon or not user or not password or not told.isprintable():
        raise BadInput("--auth is USER:PASSWORD, or @FILE with it")
    return user, password
