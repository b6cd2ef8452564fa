"""How far is a candidate from the dense model? KL divergence on token windows, and what goes with it.

KL(dense || candidate) of every token over the full vocabulary while the teacher fits its limit at 2 bytes a
number; above that over the teacher's most likely tokens and one bucket for the rest, which bounds the full
divergence from below (log-sum inequality). :attr:`Teacher.mode` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from paretune.compressors.comparison import Divergence
from paretune.compressors.observation import micro_batches
from paretune.compressors.prefix import Prefix, Signature
from paretune.compressors.reading import Reader
from paretune.compressors.teacher_logits import BYTES_LIMIT, Store, full_store, token_loss, top_store
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ModelError, TextError


class Teacher:
    """The dense model's predictions on the windows of one text, kept for comparison.

    Full vocabulary: log-probabilities in float32 while these fit the limit, else in float16 with a float32
    normaliser per token, so that what is stored is exactly a distribution. Half precision is relative, so it is
    fine where the probability is: the dense model compared with itself stays below 1e-6.

    Args:
        model: the dense model, in its dense state; only read while the teacher is made.
        windows: the text.
        limit_bytes: of the stored predictions, counted as 2 bytes a number; 1 GiB, or a sixteenth of the memory of a
            device that has more than that to spare.
        progress: called with the windows that were read, here and in :meth:`compare`, and how many there are.
        rows: first tokens of the vocabulary that are compared; see :class:`~paretune.compressors.reading.Reader`.
        prefix: of the model whose candidates are compared, so that they start where they differ.
        tf32: how products of float32 are made before the head; see :class:`~paretune.compressors.reading.Reader`.

    Raises:
        ModelError: the model's predictions are not finite, or it lacks a token of the text.

    Attributes:
        windows: the text.
        mode: ``full`` or ``top-K``.
        loss: next-token loss of the dense model, float64 ``(windows,)``.
    """

    def __init__(
        self,
        model: Any,
        windows: TokenWindows,
        limit_bytes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        rows: int | None = None,
        prefix: Prefix | None = None,
        *,
        tf32: bool = False,
    ) -> None:
        self.windows = windows
        self._progress = progress
        self._prefix = prefix
        self._tf32 = tf32
        reader = Reader(model, rows, tf32=tf32)
        self._rows = vocabulary = reader.rows
        windows.check_vocabulary(vocabulary)
        tokens = windows.ids.numel()
        limit = teacher_limit(model.device) if limit_bytes is None else limit_bytes
        full = tokens * vocabulary * 2 <= limit
        self._store: Store = (full_store if full else top_store)(tokens, vocabulary, limit)
        self.mode = self._store.mode
        self.loss = self._read_teacher(reader)

    @torch.inference_mode()
    def _read_teacher(self, reader: Reader) -> torch.Tensor:
        losses = []
        for start, logits, targets in self._chunks(reader, 0, self.windows.count):
            log_probs = torch.log_softmax(logits, dim=-1)
            # One NaN or infinity makes the whole row NaN.
            broken = int(log_probs[..., 0].isnan().sum())
            if broken:
                raise ModelError(
                    f"predictions of the dense model on the {self.windows.text} text",
                    f"are not finite at {broken} of {len(log_probs)} tokens",
                    "Check its norms and biases, or compute in float32",
                )
            losses.append(token_loss(log_probs, targets))
            self._store.put(start, log_probs)
        return self._by_window(losses)[:, :-1].to(torch.float64).mean(dim=1)

    @torch.inference_mode()
    def compare(
        self,
        model: Any,
        windows: int | None = None,
        start: int = 0,
        signatures: tuple[Signature, ...] | None = None,
        tf32: bool | None = None,
    ) -> Divergence:
        """Read ``model`` on windows ``start`` to ``windows`` (all if left out) and compare.

        A rung that goes on from another reads only its new windows: ``compare(model, 8)``, then
        ``compare(model, 32, start=8)``, joined by :meth:`Divergence.joined`.

        Args:
            model: answers ``model(input_ids=..., use_cache=False).logits``.
            windows, start: which.
            signatures: of its blocks, where they may be told from those of the model that was read before.
            tf32: how its products are made, if not as the dense model's.

        Raises:
            TextError: there are not so many windows.
            BrokenCandidateError: predictions are not finite.
        """
        stop = self.windows.count if windows is None else windows
        if not 0 <= start < stop <= self.windows.count:
            raise TextError(
                f"windows {start} to {stop} of the {self.windows.text} text",
                f"it has {self.windows.count}",
                "Ask for fewer, or give a longer text",
            )
        reader = Reader(model, self._rows, tf32=self._tf32 if tf32 is None else tf32)
        found = [
            self._store.compare(position, logits, targets)
            for position, logits, targets in self._chunks(reader, start, stop, signatures)
        ]
        kl, same, loss = (self._by_window(parts) for parts in zip(*found, strict=True))
        sample = self.windows.sample(start, stop)
        agreement, losses = same.to(torch.float64).mean(dim=1), loss[:, :-1].to(torch.float64).mean(dim=1)
        return Divergence.of(kl, agreement, losses, self.mode, sample)

    def _by_window(self, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        """Values of consecutive tokens, ``(windows, tokens)`` on the CPU."""
        return torch.cat(list(parts)).view(-1, self.windows.window_tokens).cpu()

    def _chunks(
        self, reader: Reader, start: int, stop: int, signatures: tuple[Signature, ...] | None = None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Of consecutive tokens: the first one's place, float32 logits ``(tokens, vocabulary)``, and what follows."""
        size, window = self.windows.window_tokens, start
        for batch in micro_batches(self.windows.ids[start:stop], reader.tokens_at_once):
            ids = batch.to(reader.model.device)
            behind = window + len(batch)
            around: AbstractContextManager[None] | None = None
            if signatures is not None and self._prefix is not None:
                around = self._prefix.reading((window, behind), signatures)
            following = ids.roll(-1, dims=1).flatten()  # the last token of a window has none, and no loss
            position, inside = window * size, 0
            for logits in reader.logits(ids, around):
                yield position + inside, logits, following[inside : inside + len(logits)]
                inside += len(logits)
            window = behind
            if self._progress is not None:
                self._progress(window - start, stop - start)


def teacher_limit(device: torch.device | str) -> int:
    """Bytes that predictions of one text may take on ``device``."""
    place = torch.device(device)
    if place.type != "cuda":
        return BYTES_LIMIT
    return max(BYTES_LIMIT, torch.cuda.get_device_properties(place).total_memory // 16)
