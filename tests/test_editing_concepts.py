"""Which words come and which go between two prompts."""

from __future__ import annotations

import pytest

from idpersona.errors import BadInput
from idpersona.pipelines.editing.concepts import concepts


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("a photo of a man", "a photo of a woman", ["+woman", "-man"]),
        ("A Photo of a man.", "a photo, of a smiling man!", ["+smiling"]),
        ("a man", "an old man with a red hat", ["+old", "+red hat"]),
        ("a man", "a man with a bowl of fruit and a hat", ["+bowl of fruit and a hat"]),
        ("a man", "a man, smiling, with eyeglasses; a hat", ["+smiling", "+eyeglasses", "+hat"]),
        ("a man with a hat", "a man", ["-hat"]),
        ("a man with a hat and eyeglasses", "a man with eyeglasses", ["-hat"]),
        ("a man's face", "a woman’s face", ["+woman’s", "-man's"]),
        ("a grey-haired man", "a man", ["-grey-haired"]),
        ("a cat on a mat", "a dog on the rug", ["+dog", "+rug", "-cat", "-mat"]),
        ("a cat and a cat", "a dog and a dog", ["+dog", "-cat"]),
        ("une tête", "une tête souriante", ["+souriante"]),
        ("", "a dog", ["+dog"]),
        ("a dog", "", ["-dog"]),
    ],
)
def test_concepts_are_the_words_that_differ(source: str, target: str, found: list[str]) -> None:
    names = [("-" if concept.goes else "+") + concept.words for concept in concepts(source, target)]
    assert names == found


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a man", "a man"),
        ("a man", "The MAN!"),
        ("a man with a hat", "a man without a hat"),
        ("a hat on a man", "a man with a hat"),
        ("a red car, a blue bike", "a blue car, a red bike"),
        ("", "..."),
    ],
)
def test_prompts_that_say_the_same_have_no_concepts(source: str, target: str) -> None:
    with pytest.raises(BadInput, match="say the same"):
        concepts(source, target)
