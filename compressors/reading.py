"""A model's predictions in two steps: hidden states of many tokens at once, then logits of a few in float32.

Logits are the largest thing that reading a text makes: 8 GiB for 16,384 tokens of a vocabulary of 128,000. The blocks
want many tokens at once to be fast, so the head is run by itself, so many tokens after each other as fit a budget.

Its products are those of float32. In bfloat16, logits between 8 and 16 are multiples of 1/16: the KL of two candidates
that round them differently is above 1e-4, whatever the candidates are. What is before the head stays as the model
computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch

_LOGIT_BYTES_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 30}
"""On a CPU what stays in its caches, and is not asked of the system anew each time."""
_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}
_CHECKED_TOKENS = 8

_KNOWN: WeakKeyDictionary[torch.nn.Linear, bool] = WeakKeyDictionary()
"""Whether a head was seen to give what its model gives."""

Part = AbstractContextManager[None]
"""Entered around the blocks of one micro-batch."""


@contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Products of float32 matrices on a GPU: exact, or of numbers rounded to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def batch_tokens(device: torch.device | str) -> int:
    """Tokens that go through the blocks together."""
    return _TOKENS_AT_ONCE.get(torch.device(device).type, 4096)


def logit_bytes(device: torch.device | str) -> int:
    """Of the logits that are held at once, in float32."""
    return _LOGIT_BYTES_AT_ONCE.get(torch.device(device).type, 1 << 24)


class Reader:
    """Reads windows of tokens with a model.

    Heads that are no plain linear, that a container's library wrapped, or whose logits the model changes in a way that
    is not known here, are run by the model itself, all logits of a micro-batch at once.

    Args:
        model: answers ``model(input_ids=..., use_cache=False).logits`` and has a ``device``.
        rows: first tokens of the vocabulary that predictions are cut to, and normalised over; all if left out.
            Siblings of one family pad the same vocabulary to other numbers of rows, and what is beyond the
            tokenizer's means nothing.
        tf32: round the factors of products of float32 before the head to 10 bits, on a GPU.
    """

    def __init__(self, model: Any, rows: int | None = None, *, tf32: bool = False) -> None:
        self.model = model
        self._tf32 = tf32
        find = getattr(model, "get_output_embeddings", None)
        head = None if find is None else find()
        if rows is None:
            if head is None:
                raise TypeError("a model without a head says nothing of its vocabulary")
            rows = int(head.weight.shape[0])
        self.rows = rows
        self._head = _plain(head)
        self._after = _after_head(model)
        most = max(1, logit_bytes(model.device) // (4 * self.rows))
        self._most_tokens = batch_tokens(model.device)
        self._logit_tokens = min(most, self._most_tokens)
        if self._head is not None:
            if self._head not in _KNOWN:
                _KNOWN[self._head] = self._is_known(self._head)
            self._head = self._head if _KNOWN[self._head] else None

    @property
    def tokens_at_once(self) -> int:
        """Of a micro-batch."""
        return self._most_tokens if self._head is not None else self._logit_tokens

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, around: Part | None = None) -> Iterator[torch.Tensor]:
        """Logits of a micro-batch in order, float32 ``(tokens, rows)``, some tokens at a time.

        Args:
            ids: ``(windows, tokens)`` on the model's device.
            around: entered while the blocks run.
        """
        head = self._head
        with products(tf32=self._tf32), nullcontext() if around is None else around:
            found = self._own_logits(ids) if head is None else self._hidden(head, ids)
        if head is None:
            yield found
            return
        for start in range(0, len(found), self._logit_tokens):
            yield self._of(head, found[start : start + self._logit_tokens])

    def _own_logits(self, ids: torch.Tensor) -> torch.Tensor:
        """As the model computes them, in float32 ``(tokens, rows)``."""
        found: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return found.flatten(0, 1)[:, : self.rows].to(torch.float32)

    def _hidden(self, head: torch.nn.Linear, ids: torch.Tensor) -> torch.Tensor:
        """What enters the head, ``(tokens, hidden)``; nothing where the model does not call it."""
        handle = head.register_forward_pre_hook(_stop)
        try:
            self.model(input_ids=ids, use_cache=False)
        except _Reached as reached:
            return reached.hidden.flatten(0, 1)
        finally:
            handle.remove()
        return torch.empty(0)

    def _of(self, head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of ``(tokens, hidden)``."""
        weight, bias = head.weight[: self.rows], head.bias
        if hidden.is_cuda and hidden.dtype == weight.dtype and hidden.dtype != torch.float32:
            # Products of two halves are exact in float32, in which they are added up.
            found = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        elif self._tf32 and hidden.is_cuda:
            # Weights of 8 bits of mantissa are exact in 10; hidden states are in two parts.
            coarse = (hidden.view(torch.int32) & ~0x1FFF).view(torch.float32)
            with products(tf32=True):
                found = torch.mm(coarse, weight.t()).addmm_(hidden - coarse, weight.t())
        else:
            found = hidden.to(torch.float32) @ weight.to(torch.float32).t()
        if bias is not None:
            found += bias[: self.rows].to(torch.float32)
        return self._after(found)

    @torch.inference_mode()
    def _is_known(self, head: torch.nn.Linear) -> bool:
        """Whether the two steps give what the model gives, to the rounding of its own logits."""
        ids = torch.arange(min(_CHECKED_TOKENS, self.rows), device=self.model.device)[None]
        hidden, own = self._hidden(head, ids), self._own_logits(ids)
        if not len(hidden):
            return False
        if not bool(own.isfinite().all()):
            return True  # nothing can be compared, and whoever reads it will say so
        close = 1e-3 if hidden.dtype == torch.float32 else 2e-2
        return bool((self._of(head, hidden) - own).abs().max() <= close * own.abs().max())


class _Reached(Exception):  # noqa: N818 -- no error: what was wanted was reached and the rest is not needed
    """Ends a forward pass before the head."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _stop(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    raise _Reached(inputs[0])


def _plain(head: Any) -> torch.nn.Linear | None:
    """A head that is one product with its weight."""
    wrapped = type(head) is not torch.nn.Linear or hasattr(head, "quantization_scheme")
    return None if wrapped else head


def _after_head(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What families do to logits, in place: divide (Granite), multiply (Cohere, Falcon-H1), cap (Gemma)."""
    config = getattr(model, "config", None)
    settings: Any = {} if config is None else config.get_text_config().to_dict()
    factor = float(settings.get("logit_scale") or 1.0) * float(settings.get("lm_head_multiplier") or 1.0)
    factor /= float(settings.get("logits_scaling") or 1.0)
    cap = settings.get("final_logit_softcapping")

    def after(logits: torch.Tensor) -> torch.Tensor:
        if factor != 1.0:
            logits *= factor
        return logits if not cap else logits.div_(cap).tanh_().mul_(cap)

    return after
