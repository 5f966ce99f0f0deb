"""Does a caption speak of a person? Keyword lists: people, professions, nationalities, ethnicities."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("person_words.yaml")
_WORD = re.compile(r"[^\W\d_]+")


@cache
def _forms() -> tuple[frozenset[str], frozenset[str]]:
    """All forms of the words that count however they are written, and of those that count as written."""
    lists: dict[str, str] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    forms = {form for words in lists.values() for word in words.split() for form in _plural(word)}
    exact = frozenset(form for form in forms if form != form.lower())
    return frozenset(forms - exact), exact


def _plural(entry: str) -> Iterator[str]:
    """A word and its plurals; of ``child/children`` the words that are there."""
    if "/" in entry:
        yield from entry.split("/")
        return
    yield entry
    if entry.endswith("man"):
        yield f"{entry[:-3]}men"
    if re.search(r"[^aeiou]y$", entry):
        yield f"{entry[:-1]}ies"
    else:
        yield f"{entry}es" if re.search(r"(s|x|z|ch|sh)$", entry) else f"{entry}s"


def person_word(caption: str) -> str | None:
    """The first word of a caption that stands for a person, as written there; None if there is none.

    Whole words count, with plurals and genitives: ``women``, ``the boy's hat``, but not ``manual``.
    """
    anyhow, exact = _forms()
    for match in _WORD.finditer(caption):
        word = match[0]
        if word in exact or word.lower() in anyhow:
            return word
    return None
