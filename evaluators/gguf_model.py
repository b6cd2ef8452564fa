"""A GGUF file as a model that can be compared: llama.cpp reads the windows, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from paretune.spaces.errors import ModelError

if TYPE_CHECKING:
    from paretune.engines.llama_engine import LlamaCpp

_BYTES_AT_ONCE = 1 << 30
_TOKENS = "tokenizer.ggml.tokens"


class GgufModel:
    """Answers each batch of windows with what llama.cpp predicts for it, read ahead a few windows at a time.

    Args:
        engine: llama.cpp.
        file: of the model.
        ids: int64 ``(windows, tokens)``: what will be asked for, in this order.
        rows: of its vocabulary.
        device: that the predictions are moved to.
    """

    def __init__(self, engine: LlamaCpp, file: Path, ids: torch.Tensor, rows: int, device: Any) -> None:
        self._engine = engine
        self._file = file
        self.device = torch.device(device)
        count = max(1, _BYTES_AT_ONCE // (4 * rows * ids.shape[1]))
        self._chunks = iter(torch.split(ids, count))
        self._ready = torch.empty(0, ids.shape[1], rows)

    def __call__(self, input_ids: torch.Tensor, use_cache: bool = False) -> SimpleNamespace:
        """Log-probabilities, which are logits too, ``(windows, tokens, vocabulary)``."""
        del use_cache
        while len(self._ready) < len(input_ids):
            self._ready = torch.cat([self._ready, self._predict(next(self._chunks))])
        found, self._ready = self._ready[: len(input_ids)], self._ready[len(input_ids) :]
        return SimpleNamespace(logits=found.to(self.device))

    def _predict(self, ids: torch.Tensor) -> torch.Tensor:
        from paretune.engines.running import only, predictions_of

        model = ({"model": str(self._file)}, self._ready.shape[-1])
        return only(predictions_of(self._engine, [model], ids, whole=True)).log_probabilities


@dataclass(frozen=True)
class GgufFacts:
    """What the header of a file says.

    Attributes:
        weight_bytes: of all tensors.
        tokens: in order; none where the file names none.
        numbers: types of its tensors, those with most bytes first.
        shape: hidden channels and blocks, ``None`` where the file does not say.
    """

    weight_bytes: int
    tokens: tuple[str, ...]
    numbers: str
    shape: tuple[int | None, int | None]


def gguf_facts(file: Path) -> GgufFacts:
    """Read the header of a file.

    Raises:
        ModelError: it is no GGUF file, or is cut short.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        tokens: Sequence[str] = _content(reader, _TOKENS) or ()
        architecture = _content(reader, "general.architecture")
        hidden, blocks = (
            _content(reader, f"{architecture}.{key}") for key in ("embedding_length", "block_count")
        )
        size: dict[str, int] = {}
        for tensor in reader.tensors:
            name = tensor.tensor_type.name
            size[name] = size.get(name, 0) + int(tensor.n_bytes)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"GGUF file {file}", f"cannot be read ({str(error)[:120]})", "Copy or download it again"
        ) from error
    types = ", ".join(sorted(size, key=lambda name: -size[name])[:3])
    return GgufFacts(sum(size.values()), tuple(tokens), f"GGUF ({types})", (hidden, blocks))


def _content(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def same_tokens(tokenizer: Any, tokens: Sequence[str]) -> bool:
    """Whether a file's tokens are those of a tokenizer, id by id; rows beyond the tokenizer's are padding."""
    words = tokenizer.get_vocab().items() - tokenizer.get_added_vocab().items()
    return bool(words) and all(index < len(tokens) and tokens[index] == word for word, index in words)
