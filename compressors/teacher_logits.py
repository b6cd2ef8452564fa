"""What is kept of the dense model's predictions, and the divergence of a candidate's from them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch

BYTES_LIMIT = 2**30
_FEWEST, _MOST = 64, 1024


class Compared(NamedTuple):
    """A candidate's predictions of some tokens beside the dense model's, ``(tokens,)`` each.

    Attributes:
        kl: in nats, float32.
        same: whether the dense model's likeliest token is as likely as any other, bool.
        loss: of the candidate, of the token that follows, in nats, float32.
    """

    kl: torch.Tensor
    same: torch.Tensor
    loss: torch.Tensor


class Store(Protocol):
    """Predictions of consecutive tokens."""

    @property
    def mode(self) -> str:
        """``full`` or ``top-K``."""

    def put(self, start: int, log_probs: torch.Tensor) -> None:
        """Keep float32 ``(tokens, vocabulary)`` as the predictions from token ``start`` on."""

    def compare(self, start: int, logits: torch.Tensor, targets: torch.Tensor) -> Compared:
        """Predictions from token ``start`` on, float32 logits ``(tokens, vocabulary)``, and what tokens follow."""


class FullStore:
    """Log-probabilities of the whole vocabulary, ``(tokens, vocabulary)`` in ``dtype``."""

    mode = "full"

    def __init__(self, tokens: int, vocabulary: int, dtype: torch.dtype) -> None:
        self._shape = (tokens, vocabulary)
        self._dtype = dtype
        self._log_probs = torch.empty(0)
        self._normaliser = torch.empty(0)
        self._top = torch.empty(0)

    def put(self, start: int, log_probs: torch.Tensor) -> None:
        """See :class:`Store`."""
        if not self._log_probs.numel():
            device = log_probs.device
            self._log_probs = torch.empty(self._shape, dtype=self._dtype, device=device)
            self._normaliser = torch.zeros(self._shape[0], device=device)
            self._top = torch.empty(self._shape[0], dtype=torch.int64, device=device)
        stop = start + len(log_probs)
        self._log_probs[start:stop] = log_probs
        self._top[start:stop] = log_probs.argmax(dim=-1)
        if self._dtype != torch.float32:
            stored = self._log_probs[start:stop].to(torch.float32)
            self._normaliser[start:stop] = stored.logsumexp(dim=-1)

    def compare(self, start: int, logits: torch.Tensor, targets: torch.Tensor) -> Compared:
        """See :class:`Store`."""
        kept, logits, targets = _beside(start, logits, targets, self._log_probs.device)
        stored, normaliser, top = self._log_probs[kept], self._normaliser[kept], self._top[kept]
        if logits.is_cuda and find_spec("triton") is not None:
            from paretune.compressors.gpu_kernels import divergence

            return Compared(*divergence(logits, stored, normaliser, top, targets))
        log_probs = torch.log_softmax(logits, dim=-1)
        dense = stored.to(torch.float32)
        if self._dtype != torch.float32:
            dense = dense - normaliser.unsqueeze(-1)
        same, loss = _is_top(log_probs, top), token_loss(log_probs, targets)
        p = dense.exp()
        kl = torch.linalg.vecdot(p, dense - log_probs)
        # What rounding left of both sums of probabilities is in every term of the first sum.
        kl += log_probs.exp_().sum(dim=-1) - p.sum(dim=-1)
        return Compared(kl.clamp_min_(0.0), same, loss)


class TopStore:
    """The ``kept`` most likely tokens and the probability of all others together."""

    def __init__(self, tokens: int, kept: int) -> None:
        self.mode = f"top-{kept}"
        self._shape = (tokens, kept)
        self._log_probs = torch.empty(0)
        self._rest = torch.empty(0)
        self._tokens = torch.empty(0)

    def put(self, start: int, log_probs: torch.Tensor) -> None:
        """See :class:`Store`."""
        device = log_probs.device
        if not self._log_probs.numel():
            self._log_probs = torch.empty(self._shape, device=device)
            self._tokens = torch.empty(self._shape, dtype=torch.int32, device=device)
            self._rest = torch.empty(self._shape[0], device=device)
        stop = start + len(log_probs)
        values, tokens = log_probs.topk(self._shape[1], dim=-1)
        self._log_probs[start:stop], self._tokens[start:stop] = values, tokens.to(torch.int32)
        self._rest[start:stop] = _rest(log_probs, tokens)

    def compare(self, start: int, logits: torch.Tensor, targets: torch.Tensor) -> Compared:
        """See :class:`Store`."""
        kept, logits, targets = _beside(start, logits, targets, self._log_probs.device)
        log_probs = torch.log_softmax(logits, dim=-1)
        dense, tokens = self._log_probs[kept], self._tokens[kept].to(torch.int64)
        kl = torch.linalg.vecdot(dense.exp(), dense - log_probs.gather(-1, tokens))
        rest = self._rest[kept]
        kl += rest.exp() * (rest - _rest(log_probs, tokens))
        return Compared(kl.clamp_min_(0.0), _is_top(log_probs, tokens[:, 0]), token_loss(log_probs, targets))


def _beside(
    start: int, logits: torch.Tensor, targets: torch.Tensor, device: torch.device
) -> tuple[slice, torch.Tensor, torch.Tensor]:
    """Which stored predictions are compared, and the others where those are."""
    return slice(start, start + len(logits)), logits.to(device), targets.to(device)


def _is_top(log_probs: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Whether no token is more likely than ``token``; a maximum is much faster to find than its place."""
    return log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1) >= log_probs.amax(dim=-1)


def token_loss(log_probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """In nats, of the token that follows each, ``(tokens,)``."""
    return -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _rest(log_probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log of the probability of every token but ``tokens``."""
    return log_probs.scatter(-1, tokens, -torch.inf).logsumexp(dim=-1)


def full_store(tokens: int, vocabulary: int, limit_bytes: int) -> Store:
    """Everything, in float32 while that fits the limit, else in float16."""
    exact = tokens * vocabulary * 4 <= limit_bytes
    return FullStore(tokens, vocabulary, torch.float32 if exact else torch.float16)


def top_store(tokens: int, vocabulary: int, limit_bytes: int) -> Store:
    """As many of the most likely tokens, between 64 and 1024, as fit the limit at 8 bytes each."""
    kept = max(_FEWEST, min(_MOST, limit_bytes // (8 * tokens) // _FEWEST * _FEWEST))
    return TopStore(tokens, min(kept, vocabulary - 1))
