"""The tokenizer: byte-level BPE behind GPT-2's pre-tokenizer, which llama.cpp knows as ``gpt-2``.

Digits never merge: the merges are learned on text without digits, so every digit is a token of its own and the
model can carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from demo.generate import END_OF_TEXT

VOCABULARY = 768


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A ``transformers`` fast tokenizer of :data:`VOCABULARY` tokens learned from ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator((re.sub(r"\d+", " ", text) for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
