"""The training text as one row of token ids, and windows drawn from it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from paretune.demo.generate import documents, ended

_CHUNK = 1000


@dataclass(frozen=True)
class Corpus:
    """Token ids (tokens,) as int16, and where documents begin (documents,) as int64."""

    tokens: Tensor
    starts: Tensor

    def to(self, device: str) -> Corpus:
        """The same with its token ids on ``device``."""
        return replace(self, tokens=self.tokens.to(device))

    def windows(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Ids (count, length + 1): half of the windows begin with a document, as prompts do."""
        last = len(self.tokens) - length - 1
        anywhere = torch.randint(0, last, (count,), generator=generator)
        begun = self.starts[torch.randint(0, len(self.starts), (count,), generator=generator)].clamp(max=last)
        firsts = torch.where(torch.arange(count) % 2 == 0, anywhere, begun).to(self.tokens.device)
        return self.tokens[firsts[:, None] + torch.arange(length + 1, device=self.tokens.device)].long()


def read_corpus(tokenizer: Any, count: int, processes: int) -> Corpus:
    """Generate and tokenize ``count`` training documents in so many processes."""
    rows: list[Tensor] = []
    lengths: list[int] = []
    with ProcessPoolExecutor(processes) as pool:
        sizes = [(start, min(_CHUNK, count - start)) for start in range(0, count, _CHUNK)]
        for texts in pool.map(_texts, sizes):
            ids = tokenizer(texts)["input_ids"]
            lengths += map(len, ids)
            rows.append(torch.tensor(list(chain.from_iterable(ids)), dtype=torch.int16))
    starts = torch.cumsum(torch.tensor([0, *lengths[:-1]]), 0)
    return Corpus(torch.cat(rows), starts)


def _texts(chunk: tuple[int, int]) -> list[str]:
    start, count = chunk
    return [ended(text) for text in documents("train", count, start)]
