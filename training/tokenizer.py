"""The embedded model's own small BPE vocabulary, in CLIP's file format.

Byte-pair encoding (Sennrich et al., arXiv:1508.07909) learnt on captions of our own grammar by the
``tokenizers`` library. All bytes are in the alphabet, so any prompt can be encoded; words outside the grammar
become pieces.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(
    texts: list[str], folder: Path, *, vocabulary: int = 1024, length: int = 64
) -> CLIPTokenizer:
    """Learn a vocabulary from ``texts`` and save it in ``folder``, for prompts of up to ``length`` tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(alphabet) - 2,
        special_tokens=[],
        initial_alphabet=sorted(alphabet),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in learnt["merges"]]
    # CLIP's layout: bytes, bytes that end a word, merged pieces, the two special tokens.
    pieces = sorted(alphabet) + [a + "</w>" for a in sorted(alphabet)]
    pieces += [p for p in ("".join(m.split(" ")) for m in merges) if p not in set(pieces)]
    vocab = {token: i for i, token in enumerate([*pieces, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = {
        "model_max_length": length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return CLIPTokenizer.from_pretrained(folder)
