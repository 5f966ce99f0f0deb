"""What a call of the command line came to, for tests of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a call printed and returned."""

    status: int
    out: str
    err: str

    def refused(self, *words: str) -> Outcome:
        """Itself, when it ended as bad input must: status 2, one line on stderr with ``words``, no result."""
        assert self.status == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("idpersona: ")
        assert self.out == ""
        for word in words:
            assert word in lines[0], (word, lines[0])
        return self

    def done(self) -> Outcome:
        """Itself, when it succeeded."""
        assert self.status == 0, self.err
        assert "Traceback" not in self.err
        return self


Run = Callable[..., Outcome]
