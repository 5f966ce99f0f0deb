"""``python -m idpersona``: the same as the ``idpersona`` command."""

from __future__ import annotations

import sys

from idpersona.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
