"""Token windows of fixed length, cut from the documents of a text one after the other.

What candidates are compared on. The order is fixed by the seed, so the first windows are a random sample and
rungs are nested prefixes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.compressors.documents import (
    END_OF_TEXT,
    Document,
    TextPart,
    check_disjoint,
    chosen,
    distinct,
    read_documents,
    remarks,
)
from paretune.spaces.errors import ModelError, TextError
from paretune.spaces.measurement import Sample

__all__ = ["TextPart", "TokenWindows", "check_disjoint", "read_windows"]


@dataclass(frozen=True)
class TokenWindows:
    """Windows of one text.

    Attributes:
        ids: int64 ``(windows, tokens)``.
        text: name of the text: ``calibration``, ``search``, ``report``.
        digest: SHA-256 of the ids and their shape.
        documents: number of the document that most of a window's tokens are of; empty where documents are not known.
        remarks: what a user should know of how the file was divided.
    """

    ids: torch.Tensor
    text: str
    digest: str
    documents: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()

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
    def of(cls, ids: torch.Tensor, text: str, documents: Sequence[int] = ()) -> TokenWindows:
        """Windows from ids, with their digest."""
        ids = ids.to(dtype=torch.int64, device="cpu").contiguous()
        digest = hashlib.sha256(f"{tuple(ids.shape)}".encode() + ids.numpy().tobytes()).hexdigest()
        return cls(ids, text, digest, tuple(documents))

    def sample(self, start: int = 0, stop: int | None = None) -> Sample:
        """Who windows ``start`` to ``stop`` are, for errors and pairs."""
        rows = self.ids[start:stop].numpy()
        return Sample(
            windows=tuple(hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in rows),
            documents=self.documents[start:stop],
        )

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
        return TokenWindows.of(self.ids[:count], self.text, self.documents[:count])


def read_windows(
    tokenizer: Any,
    path: Path,
    text: str = "search",
    *,
    window_tokens: int = 512,
    count: int | None = None,
    most: int | None = None,
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
        most: draw no more, where no ``count`` is given; ``None`` or 0: all.
        seed: of the draw.
        documents: use only these, counted from 0; ``None``: all, one that repeats another once.

    Raises:
        TextError: unreadable, or too short for a window or for ``count`` of them.
    """
    whole = read_documents(path)
    used = chosen(path, whole, distinct(whole) if documents is None else documents)
    windows, owners = lay_out(tokenizer, used, window_tokens)
    if len(windows) < max(1, count or 0):
        raise TextError(
            f"text {path}",
            f"holds {len(windows)} windows of {window_tokens} tokens, {count or 1} are needed",
            "Give a longer text, shorter windows or ask for fewer",
        )
    if count is None and most and len(windows) > most:
        count = most
    if count is not None:
        drawn = np.random.default_rng(seed).permutation(len(windows))[:count]
        windows, owners = windows[drawn], owners[drawn] if len(owners) else owners
    found = TokenWindows.of(torch.from_numpy(windows), text, owners.tolist())
    return replace(found, remarks=remarks(path, whole))


def lay_out(
    tokenizer: Any, documents: Sequence[Document], window_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """All windows of some documents, int64 ``(windows, window_tokens)``, and whose they are, int64 ``(windows,)``.

    Documents are tokenized one by one and laid end to end, with the token of their end mark between them
    where file and tokenizer have one; the remainder after the last whole window is dropped. A tokenizer that
    puts a beginning-of-sequence token before every text has it at the start of every window. A window belongs to the
    document (counted from 0 among those given) that most of its tokens are of; paragraphs are no documents, so for a
    text that is divided by them nobody is named.
    """
    tokens = _tokenize(tokenizer, documents)
    ids = np.array([token for part in tokens for token in part], dtype=np.int64)
    start = np.array(_beginning(tokenizer), dtype=np.int64)
    length = window_tokens - len(start)
    count = len(ids) // length
    windows = np.concatenate([np.tile(start, (count, 1)), ids[: count * length].reshape(-1, length)], axis=1)
    if not all(document.whole for document in documents):
        return windows, np.empty(0, dtype=np.int64)
    owners = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])[: count * length]
    most = [int(np.bincount(row - row[0]).argmax()) + int(row[0]) for row in owners.reshape(-1, length)]
    return windows, np.array(most, dtype=np.int64)


def _tokenize(tokenizer: Any, documents: Sequence[Document]) -> list[list[int]]:
    end = tokenizer.get_vocab().get(END_OF_TEXT)
    texts = [d.text if d.ending == END_OF_TEXT else d.text + d.ending for d in documents]
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    return [
        [*tokens, end] if document.ending == END_OF_TEXT and end is not None else list(tokens)
        for document, tokens in zip(documents, encoded, strict=True)
    ]


def _beginning(tokenizer: Any) -> list[int]:
    """The beginning-of-sequence token, if the tokenizer adds one by itself."""
    bos = getattr(tokenizer, "bos_token_id", None)
    encoded = tokenizer("a")["input_ids"]
    return [bos] if bos is not None and encoded and encoded[0] == bos else []
