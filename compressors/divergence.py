"""How far is a candidate from the dense model? KL divergence on token windows, and what goes with it.

KL(dense || candidate) of every token over the full vocabulary while the teacher fits 1 GiB at 2 bytes a
number; above that over the teacher's most likely tokens and one bucket for the rest, which bounds the full
divergence from below (log-sum inequality). :attr:`Teacher.mode` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paretune.compressors.comparison import Divergence
from paretune.compressors.observation import micro_batches
from paretune.compressors.teacher_logits import BYTES_LIMIT, Store, full_store, top_store
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ModelError, TextError

_LOGIT_BYTES_AT_ONCE = 1 << 28
_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}


class Teacher:
    """The dense model's predictions on the windows of one text, kept for comparison.

    Full vocabulary: log-probabilities in float32 while these fit 1 GiB, else in float16 with a float32
    normaliser a token, so that what is stored is exactly a distribution. Half precision is relative, so it is
    fine where the probability is: the dense model compared with itself stays below 1e-6.

    Args:
        model: the dense model, in its dense state; only read while the teacher is made.
        windows: the text.
        limit_bytes: of the stored predictions, counted as DESIGN says: 2 bytes a number.
        progress: called with the windows that were read, here and in :meth:`compare`, and how many there are.

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
        limit_bytes: int = BYTES_LIMIT,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.windows = windows
        self._progress = progress
        vocabulary = _vocabulary(model)
        windows.check_vocabulary(vocabulary)
        tokens = windows.ids.numel()
        self._batch_tokens = _batch_tokens(model, vocabulary)
        full = tokens * vocabulary * 2 <= limit_bytes
        self._store: Store = (full_store if full else top_store)(tokens, vocabulary, limit_bytes)
        self.mode = self._store.mode
        self.loss = self._read_teacher(model)

    @torch.inference_mode()
    def _read_teacher(self, model: Any) -> torch.Tensor:
        losses, start = [], 0
        for ids, logits in self._logits(model, self.windows.ids):
            log_probs = torch.log_softmax(logits, dim=-1)
            # One NaN or infinity makes the whole row NaN.
            broken = int(log_probs[..., 0].isnan().sum())
            if broken:
                raise ModelError(
                    f"predictions of the dense model on the {self.windows.text} text",
                    f"are not finite at {broken} of {ids.numel()} tokens",
                    "Check its norms and biases, or compute in float32",
                )
            losses.append(_window_loss(log_probs, ids))
            flat = log_probs.view(-1, log_probs.shape[-1])
            self._store.put(start, flat)
            start += len(flat)
        return torch.cat(losses)

    @torch.inference_mode()
    def compare(self, model: Any, windows: int | None = None, start: int = 0) -> Divergence:
        """Read ``model`` on windows ``start`` to ``windows`` (all if left out) and compare.

        A rung that goes on from another reads only its new windows: ``compare(model, 8)``, then
        ``compare(model, 32, start=8)``, joined by :meth:`Divergence.joined`.

        Args:
            model: answers ``model(input_ids=..., use_cache=False).logits``.
            windows, start: which.

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
        per_token, agreement, losses = [], [], []
        position = start * self.windows.window_tokens
        for ids, logits in self._logits(model, self.windows.ids[start:stop]):
            log_probs = torch.log_softmax(logits, dim=-1)
            flat = log_probs.view(-1, log_probs.shape[-1])
            kl, same = self._store.divergence(position, flat)
            position += len(flat)
            per_token.append(kl.view(ids.shape).cpu())
            agreement.append(same.view(ids.shape).to(torch.float64).mean(dim=1).cpu())
            losses.append(_window_loss(log_probs, ids))
        sample = self.windows.sample(start, stop)
        return Divergence.of(torch.cat(per_token), torch.cat(agreement), torch.cat(losses), self.mode, sample)

    def _logits(self, model: Any, ids: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Micro-batches of ids and float32 logits ``(windows, tokens, vocabulary)``."""
        done = 0
        for batch in micro_batches(ids, self._batch_tokens):
            moved = batch.to(model.device)
            with float32_head(model):
                logits = model(input_ids=moved, use_cache=False).logits
            yield moved, logits.to(torch.float32)
            done += len(batch)
            if self._progress is not None:
                self._progress(done, len(ids))


@contextmanager
def float32_head(model: Any) -> Iterator[None]:
    """Logits of a model in half precision from a product in float32.

    In bfloat16, logits between 8 and 16 are multiples of 1/16: the KL of two candidates that round them differently is
    above 1e-4, whatever the candidates are. What is before the head stays as the model computes it. Heads that are no
    plain linear, or that a container's library wrapped, are left alone.
    """
    find = getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    if (
        type(head) is not torch.nn.Linear
        or head.weight.dtype == torch.float32
        or hasattr(head, "quantization_scheme")
    ):
        yield
        return

    def product(module: torch.nn.Linear, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias.to(torch.float32)
        weight = module.weight.to(torch.float32)
        return torch.nn.functional.linear(inputs[0].to(torch.float32), weight, bias)

    hook = head.register_forward_hook(product)
    try:
        yield
    finally:
        hook.remove()


def _window_loss(log_probs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss of each window, float64 on the CPU."""
    found = log_probs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    return -found.to(torch.float64).mean(dim=1).cpu()


def _vocabulary(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _batch_tokens(model: Any, vocabulary: int) -> int:
    most = _TOKENS_AT_ONCE.get(model.device.type, 4096)
    return max(1, min(most, _LOGIT_BYTES_AT_ONCE // (4 * vocabulary)))
