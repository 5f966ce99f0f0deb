"""A byte-level CLIP tokenizer without merges: 514 tokens, built in memory."""

from __future__ import annotations

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
VOCAB_SIZE = 514


def tiny_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """A ``CLIPTokenizer`` that spells every text in bytes.

    Args:
        max_length: tokens per prompt, start and end included; longer prompts are cut there.
    """
    # CLIP writes the 188 printable bytes as themselves and shifts the others beyond 255.
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = [byte for byte in range(256) if byte not in printable]
    letters = [chr(code) for code in printable] + [chr(256 + index) for index in range(len(hidden))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=max_length
    )
