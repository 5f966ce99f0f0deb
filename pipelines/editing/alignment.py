"""Which token of a source prompt a token of a target prompt corresponds to.

As in Prompt-to-Prompt (arXiv:2208.01626).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.seams.text import offsets

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def replace_map(tokenizer: Any, source: str, target: str) -> tuple[Tensor, Tensor]:
    """The source's attention as the target's, ``A_target = A_source @ table``: float32 [tokens, tokens].

    Word by word: the tokens of a source word share their attention evenly among those of the word in its
    place; what stands between words, and behind them, corresponds one by one. The second tensor, float32
    [tokens], is 0 at target tokens that correspond to nothing and keep their own attention.

    Raises:
        BadInput: the prompts have different numbers of words.
    """
    first, second = ([match.span() for match in _WORD.finditer(text)] for text in (source, target))
    if len(first) != len(second):
        raise BadInput(
            f"'{source}' has {len(first)} words and '{target}' {len(second)}: replacing goes word by word; "
            "use refine, which adds and takes out words"
        )
    length = tokenizer.model_max_length
    table = np.zeros((length, length), dtype=np.float32)
    spans = [offsets(tokenizer, text) for text in (source, target)]
    done: tuple[int, int] = (0, 0)
    for one, other in zip(first, second, strict=True):
        rows, columns = (_tokens(span, word) for span, word in zip(spans, (one, other), strict=True))
        if not rows or not columns:
            continue
        _diagonal(table, done, (rows[0], columns[0]))
        if len(rows) == len(columns):
            table[rows, columns] = 1
        else:
            table[np.ix_(rows, columns)] = 1 / len(columns)
        done = (rows[-1] + 1, columns[-1] + 1)
    _diagonal(table, done, (length, length))
    return torch.from_numpy(table), torch.from_numpy((table.sum(axis=0) > 0).astype(np.float32))


def _tokens(spans: list[tuple[int, int]], word: tuple[int, int]) -> list[int]:
    return [n for n, (a, b) in enumerate(spans) if b > a and a < word[1] and b > word[0]]


def _diagonal(table: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> None:
    """What lies between two words, and after the last, corresponds one by one."""
    for n in range(min(end[0] - start[0], end[1] - start[1])):
        table[start[0] + n, start[1] + n] = 1


def refine_map(tokenizer: Any, source: str, target: str) -> tuple[Tensor, Tensor]:
    """For each target token its source token, and whether it has one: int64 [tokens], float32 [tokens].

    Needleman-Wunsch over the token ids: a match counts 1, a mismatch -1, a gap 0. Tokens that are new in the
    target have none.
    """
    ids = [
        tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
        for text in (source, target)
    ]
    pairs = align(*ids)
    length = tokenizer.model_max_length
    mapper, known = torch.arange(length), torch.zeros(length)
    for one, other in pairs:
        mapper[other], known[other] = one, 1
    # Padding after the shorter and the longer prompt is the same everywhere.
    tail = length - len(ids[1])
    if tail > 0:
        behind = torch.arange(len(ids[0]), len(ids[0]) + tail).clamp(max=length - 1)
        mapper[len(ids[1]) :], known[len(ids[1]) :] = behind, 1
    return mapper, known


def align(source: list[int], target: list[int]) -> list[tuple[int, int]]:
    """Pairs (place in source, place in target) of equal ids in a best global alignment, in order."""
    score = np.zeros((len(source) + 1, len(target) + 1), dtype=np.int64)
    for i, one in enumerate(source, 1):
        for j, other in enumerate(target, 1):
            diagonal = score[i - 1, j - 1] + (1 if one == other else -1)
            score[i, j] = max(diagonal, score[i - 1, j], score[i, j - 1])
    pairs, i, j = [], len(source), len(target)
    while i and j:
        equal = source[i - 1] == target[j - 1]
        if score[i, j] == score[i - 1, j - 1] + (1 if equal else -1):
            i, j = i - 1, j - 1
            if equal:
                pairs.append((i, j))
        elif score[i, j] == score[i, j - 1]:
            j -= 1
        else:
            i -= 1
    return pairs[::-1]
