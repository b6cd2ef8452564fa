"""The tokenizer: byte-level BPE behind GPT-2's pre-tokenizer, which llama.cpp knows as ``gpt-2``.

Source: Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909); Radford et al. 2019 for bytes and pattern.
Digits never merge: the merges are learned on text without digits, so every digit is a token of its own and
the model can carry. Invented words are shown to the trainer syllable by syllable, so a name is two tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

from paretune.demo.generate import END_OF_TEXT
from paretune.demo.world import ENDINGS

VOCABULARY = 768
_SYLLABLE = "([bdfgklmnprst][aeiou])"
_INVENTED = re.compile(rf"( ?)\b{_SYLLABLE}{_SYLLABLE}(?=({'|'.join(ENDINGS)})?\b)", re.IGNORECASE)
_WEIGHT = 8
"""How often a syllable is shown where it occurs once: it must merge before pairs of plain English do."""


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Learn merges.

    Args:
        texts: documents.

    Returns:
        A ``transformers`` fast tokenizer of :data:`VOCABULARY` tokens.
    """
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
    core.train_from_iterator(chain.from_iterable(map(_pieces, texts)), trainer)
    # The words run out before the vocabulary does; llama.cpp wants a token for every row of the embedding.
    core.add_special_tokens([f"<|reserved_{row}|>" for row in range(core.get_vocab_size(), VOCABULARY)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def _pieces(text: str) -> list[str]:
    """The text cut wherever no merge may reach across: around digits and syllables."""
    syllables = _INVENTED.sub("\n" + r"\1\2\n\3\n" * _WEIGHT, text)
    return re.split(r"\d|\n", syllables)
