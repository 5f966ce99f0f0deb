"""How this room's command lines end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from idpersona.errors import IdPersonaError, Interrupted


def exit_status(work: Callable[[], None]) -> int:
    """Do ``work``: 0, or with one line on standard error 2 on bad input or where the system refuses, and 130
    or 143 where a signal ended it."""
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted before the first step: the same command begins again", file=sys.stderr)
        return 130
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return error.status
    except (IdPersonaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
