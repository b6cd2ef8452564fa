"""Token windows as text again, so that a model with another tokenizer reads the same characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paretune.compressors.documents import END_OF_TEXT

if TYPE_CHECKING:
    import torch

_BROKEN = "\ufffd"


def window_texts(tokenizer: Any, ids: torch.Tensor) -> list[str]:
    """The text of each window of ``ids`` (int64 ``(windows, tokens)``), end marks of documents included.

    A beginning-of-sequence token is no text. A character that the edge of a window cuts through is left out.
    """
    start = len(_beginning(tokenizer))
    return [_decoded(tokenizer, window[start:]).strip(_BROKEN) for window in ids.tolist()]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a window's text, laid out as :func:`paretune.compressors.windows.lay_out` does.

    End marks become the tokenizer's own token for them, or nothing where it has none; a beginning-of-sequence token
    goes in front where the tokenizer puts one by itself.
    """
    end = tokenizer.get_vocab().get(END_OF_TEXT)
    ids = _beginning(tokenizer)
    for number, part in enumerate(text.split(END_OF_TEXT)):
        if number and end is not None:
            ids.append(end)
        if part:
            ids.extend(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
    return ids


def predicted_bytes(tokenizer: Any, ids: Sequence[int]) -> int:
    """UTF-8 bytes that all tokens but the first stand for; nothing predicts that one. End marks are no text."""
    text = _decoded(tokenizer, ids[1:]).replace(END_OF_TEXT, "").strip(_BROKEN)
    return len(text.encode("utf-8", "surrogatepass"))


def tokenize_alike(first: Any, second: Any, texts: Sequence[str]) -> bool:
    """Whether the tokens of two tokenizers mean the same: one vocabulary (but for added tokens), texts cut alike."""
    vocabularies = [
        dict(tokenizer.get_vocab().items() - tokenizer.get_added_vocab().items())
        for tokenizer in (first, second)
    ]
    return vocabularies[0] == vocabularies[1] and all(
        encode_text(first, text) == encode_text(second, text) for text in texts
    )


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _beginning(tokenizer: Any) -> list[int]:
    """The beginning-of-sequence token, if the tokenizer adds one by itself."""
    bos = getattr(tokenizer, "bos_token_id", None)
    encoded = tokenizer("a")["input_ids"]
    return [bos] if bos is not None and encoded and encoded[0] == bos else []
