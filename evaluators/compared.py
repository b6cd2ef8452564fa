"""Models that nobody searched, judged as the front was: same dense model, same report text, same tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from paretune.compressors.divergence import Teacher
from paretune.compressors.windows import TokenWindows
from paretune.evaluators.bits_per_byte import bits_per_byte, from_perplexity
from paretune.evaluators.tasks import TaskScorer, TaskSettings
from paretune.evaluators.window_texts import encode_text, predicted_bytes
from paretune.spaces.errors import TextError
from paretune.spaces.measurement import Measurement, Sample

_QUALITY = "quality/1"
_BITS = "bits_per_byte/1"


def read_dense(
    dense: Any, windows: TokenWindows, rows: int, others: Iterable[int], *, tf32: bool = False
) -> dict[int, Teacher]:
    """The dense model's predictions on a text, by the number of tokens that a compared model has in common with it.

    Args:
        dense: only read.
        windows: of the text.
        rows: of its vocabulary.
        others: rows of the vocabularies of models with the same tokenizer.
        tf32: of the run's arithmetic, see :class:`~paretune.compressors.reading.Reader`.
    """
    shared = {min(rows, other) for other in others}
    return {least: Teacher(dense, windows, rows=least, tf32=tf32) for least in sorted(shared)}


class Judge:
    """Judges models beside the front.

    Args:
        windows: of the report text.
        tokenizer: of the run.
        texts: of the windows, see :func:`paretune.evaluators.window_texts.window_texts`.
        teachers: see :func:`read_dense`.
        tasks: that the front was scored on, ``None`` for none.

    Attributes:
        window_bytes: UTF-8 bytes that the predicted tokens of each window stand for.
    """

    def __init__(
        self,
        windows: TokenWindows,
        tokenizer: Any,
        texts: Sequence[str],
        teachers: Mapping[int, Teacher],
        tasks: TaskSettings | None,
    ) -> None:
        self._predicted = windows.window_tokens - 1
        self._sample = windows.sample()
        self._texts = texts
        self._teachers = dict(teachers)
        self._tasks = tasks
        self.window_bytes = tuple(predicted_bytes(tokenizer, ids) for ids in windows.ids.tolist())

    def beside_dense(self, model: Any, rows: int) -> dict[str, Measurement]:
        """KL to the dense model and what goes with it, of a model with the run's tokenizer.

        Args:
            model: anything that answers ``model(input_ids=..., use_cache=False).logits`` and has a ``device``.
            rows: of its vocabulary.

        Raises:
            BrokenCandidateError: predictions that are not finite.
            ModelError: a vocabulary without a token of the text.
        """
        shared = max(least for least in self._teachers if least <= rows)
        found = self._teachers[shared].compare(model).measurements(by=_QUALITY)
        bits = from_perplexity(found["perplexity"], self._predicted, self.window_bytes)
        return found if bits is None else {**found, "bits_per_byte": bits}

    def alone(self, model: Any, tokenizer: Any, context: int | None) -> dict[str, Measurement]:
        """Bits per byte of the same text, of a model with another tokenizer.

        Raises:
            TextError: a window is longer than the model's context in its tokens.
        """
        return {"bits_per_byte": read_bits(model, tokenizer, self._texts, context, self._sample)}

    def on_tasks(self, model: Any, tokenizer: Any) -> dict[str, Measurement]:
        """Scores on the run's tasks, by ``task.NAME``."""
        if self._tasks is None:
            return {}
        # One scorer per model: it keeps a hold on the model that it saw last.
        scores = TaskScorer(tokenizer, self._tasks).score(model)
        return {f"task.{name}": score for name, score in scores.items()}


@torch.inference_mode()
def read_bits(
    model: Any, tokenizer: Any, texts: Iterable[str], context: int | None, sample: Sample
) -> Measurement:
    """Bits per byte of some texts (those of the windows of ``sample``), each read by itself: its first token is given.

    Raises:
        TextError: a text has too few tokens, or more than ``context``.
    """
    bits, sizes = [], []
    for number, text in enumerate(texts):
        ids = encode_text(tokenizer, text)
        if not 2 <= len(ids) <= (context or len(ids)):
            raise TextError(
                f"window {number} of the report text with {len(ids)} tokens of this model",
                f"it reads 2 to {context} at once",
                "Search with shorter windows, or compare another model",
            )
        moved = torch.tensor([ids], device=model.device)
        logits = model(input_ids=moved, use_cache=False).logits[0, :-1].to(torch.float32)
        loss = torch.nn.functional.cross_entropy(logits, moved[0, 1:], reduction="none")
        bits.append(float(loss.sum(dtype=torch.float64)) / math.log(2))
        sizes.append(predicted_bytes(tokenizer, ids))
    return bits_per_byte(bits, sizes, sample, _BITS)
