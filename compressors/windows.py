"""Token windows of fixed length, cut from the documents of a text one after the other.

What candidates are compared on. The order is fixed by the seed, so the first windows are a random sample and
rungs are nested prefixes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.compressors.documents import END_OF_TEXT, Document, TextPart, check_disjoint, read_documents
from paretune.spaces.errors import ModelError, TextError

__all__ = ["TextPart", "TokenWindows", "check_disjoint", "read_windows"]


@dataclass(frozen=True)
class TokenWindows:
    """Windows of one text.

    Attributes:
        ids: int64 ``(windows, tokens)``.
        text: name of the text: ``calibration``, ``search``, ``report``.
        digest: SHA-256 of the ids and their shape.
    """

    ids: torch.Tensor
    text: str
    digest: str

    @property
    def count(self) -> int:
        """Number of windows."""
        return int(self.ids.shape[0])

    @property
    def window_tokens(self) -> int:
        """Tokens of each window."""
        return int(self.ids.shape[1])

    def check_vocabulary(self, vocabulary: int) -> None:
        """Refuse tokens that a model with an embedding of ``vocabulary`` rows does not have.

        Raises:
            ModelError: there is one.
        """
        largest = int(self.ids.max())
        if largest >= vocabulary:
            raise ModelError(
                f"token {largest} in the {self.text} text",
                f"the model's embedding has {vocabulary} rows",
                "Use tokenizer and model that belong together",
            )

    @classmethod
    def of(cls, ids: torch.Tensor, text: str) -> TokenWindows:
        """Windows from ids, with their digest."""
        ids = ids.to(dtype=torch.int64, device="cpu").contiguous()
        digest = hashlib.sha256(f"{tuple(ids.shape)}".encode() + ids.numpy().tobytes()).hexdigest()
        return cls(ids, text, digest)

    def first(self, count: int) -> TokenWindows:
        """The first ``count`` windows.

        Raises:
            TextError: there are not so many.
        """
        if not 1 <= count <= self.count:
            raise TextError(
                f"{count} windows of the {self.text} text",
                f"it has {self.count}",
                "Ask for fewer, or give a longer text",
            )
        return TokenWindows.of(self.ids[:count], self.text)


def read_windows(
    tokenizer: Any,
    path: Path,
    text: str = "search",
    *,
    window_tokens: int = 512,
    count: int | None = None,
    seed: int = 0,
    documents: Sequence[int] | None = None,
) -> TokenWindows:
    """Windows of ``window_tokens`` from a text file, see :func:`lay_out`.

    Args:
        tokenizer: of the model.
        path: UTF-8, plain or ``.bz2``.
        text: name of the text.
        window_tokens: length of a window.
        count: draw so many with ``seed``, without replacement; ``None``: all, in the order of the file.
        seed: of the draw.
        documents: use only these, counted from 0.

    Raises:
        TextError: unreadable, or too short for a window or for ``count`` of them.
    """
    windows = lay_out(tokenizer, read_documents(path, documents), window_tokens)
    if len(windows) < max(1, count or 0):
        raise TextError(
            f"text {path}",
            f"holds {len(windows)} windows of {window_tokens} tokens, {count or 1} are needed",
            "Give a longer text, shorter windows or ask for fewer",
        )
    if count is not None:
        windows = windows[np.random.default_rng(seed).permutation(len(windows))[:count]]
    return TokenWindows.of(torch.from_numpy(windows), text)


def lay_out(tokenizer: Any, documents: Sequence[Document], window_tokens: int) -> np.ndarray:
    """All windows of some documents, int64 ``(windows, window_tokens)``.

    Documents are tokenized one by one and laid end to end, with the token of their end mark between them
    where file and tokenizer have one; the remainder after the last whole window is dropped. A tokenizer that
    puts a beginning-of-sequence token before every text has it at the start of every window.
    """
    ids = np.array(_tokenize(tokenizer, documents), dtype=np.int64)
    start = np.array(_beginning(tokenizer), dtype=np.int64)
    length = window_tokens - len(start)
    windows = ids[: len(ids) // length * length].reshape(-1, length)
    return np.concatenate([np.tile(start, (len(windows), 1)), windows], axis=1)


def _tokenize(tokenizer: Any, documents: Sequence[Document]) -> list[int]:
    end = tokenizer.get_vocab().get(END_OF_TEXT)
    texts = [d.text if d.ending == END_OF_TEXT else d.text + d.ending for d in documents]
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    ids: list[int] = []
    for document, tokens in zip(documents, encoded, strict=True):
        ids.extend(tokens)
        if document.ending == END_OF_TEXT and end is not None:
            ids.append(end)
    return ids


def _beginning(tokenizer: Any) -> list[int]:
    """The beginning-of-sequence token, if the tokenizer adds one by itself."""
    bos = getattr(tokenizer, "bos_token_id", None)
    encoded = tokenizer("a")["input_ids"]
    return [bos] if bos is not None and encoded and encoded[0] == bos else []
