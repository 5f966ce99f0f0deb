"""Which token of the source prompt a token of the target prompt takes its attention from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from idpersona.errors import BadInput
from idpersona.pipelines.editing.alignment import align, refine_map, replace_map
from idpersona.seams.text import offsets, word_rows
from idpersona.testing import tiny_components


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_components("sd15")["tokenizer"]


def places(tokenizer: Any, text: str, word: str) -> list[int]:
    return word_rows(tokenizer, text, word)


def test_replacing_goes_word_by_word(tokenizer: Any) -> None:
    source, target = "a photo of a man, smiling", "a photo of a woman, smiling"
    table, known = replace_map(tokenizer, source, target)
    assert table.shape == (tokenizer.model_max_length,) * 2
    rows, columns = places(tokenizer, source, "man"), places(tokenizer, target, "woman")
    assert float(table[rows][:, columns].sum()) == pytest.approx(len(rows))
    # No source token gives away its attention twice, and the target's tokens have it from there.
    assert float(table.sum(dim=1).max()) <= 1 + 1e-6 and bool(known.all())
    smiling = [places(tokenizer, text, "smiling") for text in (source, target)]
    assert bool((table[smiling[0], smiling[1]] == 1).all())


def test_a_word_of_more_tokens_shares_the_attention(tokenizer: Any) -> None:
    source, target = "a photo of a cat outside", "a photo of a hippopotamus outside"
    rows, columns = places(tokenizer, source, "cat"), places(tokenizer, target, "hippopotamus")
    assert len(rows) != len(columns)
    table, _ = replace_map(tokenizer, source, target)
    assert torch.allclose(table[rows][:, columns], torch.full((len(rows), len(columns)), 1 / len(columns)))


def test_the_same_prompt_is_the_identity(tokenizer: Any) -> None:
    text = "a photo of a man, with a hat."
    table, known = replace_map(tokenizer, text, text)
    assert torch.equal(table, torch.eye(tokenizer.model_max_length)) and bool(known.all())
    mapper, known = refine_map(tokenizer, text, text)
    assert mapper.tolist() == list(range(tokenizer.model_max_length)) and bool(known.all())


def test_punctuation_may_differ(tokenizer: Any) -> None:
    source, target = "a photo of a man", "a photo, of a cat"
    table, known = replace_map(tokenizer, source, target)
    comma = [n for n, (a, b) in enumerate(offsets(tokenizer, target)) if target[a:b].startswith(",")]
    assert [n for n, here in enumerate(known.tolist()) if not here] == comma
    rows, columns = places(tokenizer, source, "man"), places(tokenizer, target, "cat")
    assert bool((table[rows[0], columns[0]] > 0).all())


def test_prompts_of_different_length_are_for_refine(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match="refine"):
        replace_map(tokenizer, "a photo of a man", "a photo of an old man")


def test_refining_knows_what_is_new(tokenizer: Any) -> None:
    source, target = "a photo of a man, outside", "a photo of a smiling old man, outside"
    mapper, known = refine_map(tokenizer, source, target)
    new = {n for word in ("smiling", "old") for n in places(tokenizer, target, word)}
    assert {n for n, here in enumerate(known.tolist()) if not here} == new
    for word in ("photo", "man", "outside"):
        theirs, ours = places(tokenizer, source, word), places(tokenizer, target, word)
        assert [int(mapper[n]) for n in ours] == theirs


@pytest.mark.parametrize(
    ("source", "target", "pairs"),
    [
        ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
        ([1, 2, 3], [1, 9, 2, 3], [(0, 0), (1, 2), (2, 3)]),
        ([1, 8, 2], [1, 2], [(0, 0), (2, 1)]),
        ([1, 5, 2], [1, 6, 2], [(0, 0), (2, 2)]),
        ([], [1], []),
    ],
)
def test_alignment(source: list[int], target: list[int], pairs: list[tuple[int, int]]) -> None:
    assert align(source, target) == pairs
