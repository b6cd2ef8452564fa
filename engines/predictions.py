"""What an engine predicts at every position, and how far that is from a candidate.

Some engines return a few log-probabilities a position and not the vocabulary: then what they left out is one bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paretune.spaces.errors import EngineError

_LEAST_REST = 1e-12
"""A rest below it is rounding of what was summed."""


@dataclass(frozen=True)
class Predictions:
    """Distributions of the next token.

    Attributes:
        log_probabilities: float32 ``(windows, tokens, k)``, in nats, normalised over the vocabulary.
        ids: int64 ``(windows, tokens, k)``, whose they are; ``None``: the whole vocabulary in its order.
    """

    log_probabilities: torch.Tensor
    ids: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids is not None and self.ids.shape != self.log_probabilities.shape:
            raise EngineError(
                f"ids shaped {tuple(self.ids.shape)}",
                f"must name {tuple(self.log_probabilities.shape)} log-probabilities",
                "Report this: the engine's runner returns something else",
            )

    @classmethod
    def of_logits(cls, logits: torch.Tensor) -> Predictions:
        """Of the whole vocabulary, from logits ``(windows, tokens, vocabulary)``."""
        return cls(torch.log_softmax(logits.to(torch.float32), dim=-1))

    def divergence(self, window: int, searched: torch.Tensor) -> torch.Tensor:
        """KL(searched || engine) of every token of a window, in nats, ``(tokens,)``.

        Over a part of the vocabulary and a bucket for the rest this bounds the full one from below.

        Args:
            window: which.
            searched: float32 log-probabilities of the candidate, ``(tokens, vocabulary)``.
        """
        theirs = self.log_probabilities[window].to(searched.device)
        if self.ids is None:
            whole: torch.Tensor = torch.linalg.vecdot(searched.exp(), searched - theirs)
            return whole.clamp_min(0.0)
        ours = searched.gather(-1, self.ids[window].to(searched.device))
        found: torch.Tensor = torch.linalg.vecdot(ours.exp(), ours - theirs)
        left, rest = _rest(ours), _rest(theirs)
        return (found + left * (left.log() - rest.log())).clamp_min(0.0)

    def most_likely(self, window: int) -> torch.Tensor:
        """The token that is most likely at every position of a window, int64 ``(tokens,)``."""
        best = self.log_probabilities[window].argmax(dim=-1)
        return best if self.ids is None else self.ids[window].gather(-1, best.unsqueeze(-1)).squeeze(-1)


def _rest(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Probability of whatever is not named, never quite zero."""
    return (1.0 - log_probabilities.to(torch.float64).exp().sum(dim=-1)).clamp_min(_LEAST_REST).float()
