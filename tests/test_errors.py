"""What is made of other libraries' errors."""

from __future__ import annotations

import pytest

from idpersona.errors import first_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("it broke.\nTraceback follows", "it broke"),
        ("", "ValueError"),
        ("  two   words  ", "two words"),
        ("/very/long/path/" + "x" * 200 + " is missing", "/very/long/path/" + "x" * 143 + "…"),
    ],
)
def test_first_line(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line
