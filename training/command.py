"""How this room's command lines end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from idpersona.errors import IdPersonaError


def exit_status(work: Callable[[], None]) -> int:
    """Do ``work``: 0, or 2 on bad input or where the system refuses, with one line on standard error."""
    try:
        work()
    except (IdPersonaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
