"""A candidate beside the dense model, window by window: the numbers and their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from paretune.spaces.errors import ConfigurationError
from paretune.spaces.measurement import Measurement

_PERCENTILE = 99.0


@dataclass(frozen=True)
class Divergence:
    """What comparing with the dense model found on some windows.

    Attributes:
        kl_tokens: KL of every token in nats, float64 ``(windows, tokens)``.
        agreement: share of tokens whose most likely prediction is the dense model's, float64 ``(windows,)``.
        loss: the candidate's own next-token loss in nats, float64 ``(windows,)``.
        mode: of the teacher, ``full`` or ``top-K``.
    """

    kl_tokens: np.ndarray
    agreement: np.ndarray
    loss: np.ndarray
    mode: str

    @classmethod
    def of(
        cls, kl_tokens: torch.Tensor, agreement: torch.Tensor, loss: torch.Tensor, mode: str
    ) -> Divergence:
        """From tensors.

        Raises:
            ConfigurationError: the candidate predicts NaN or infinities.
        """
        arrays = [values.to(torch.float64).cpu().numpy() for values in (kl_tokens, agreement, loss)]
        if not all(np.isfinite(values).all() for values in arrays):
            raise ConfigurationError(
                "predictions of the candidate",
                "are not finite, so it cannot be compared",
                "Use wider formats, or float32 for scoring",
            )
        return cls(arrays[0], arrays[1], arrays[2], mode)

    @property
    def windows(self) -> int:
        """How many were read."""
        return len(self.loss)

    @property
    def kl(self) -> np.ndarray:
        """Mean KL of each window, ``(windows,)``."""
        return np.asarray(self.kl_tokens.mean(axis=1))

    @property
    def kl_p99(self) -> float:
        """99th percentile of the KL of all tokens."""
        return float(np.percentile(self.kl_tokens, _PERCENTILE))

    @property
    def perplexity(self) -> float:
        """Of the candidate itself, per token."""
        return math.exp(float(self.loss.mean()))

    def joined(self, after: Divergence) -> Divergence:
        """Together with the windows that were read after these."""
        return Divergence(
            np.concatenate([self.kl_tokens, after.kl_tokens]),
            np.concatenate([self.agreement, after.agreement]),
            np.concatenate([self.loss, after.loss]),
            self.mode,
        )

    def first(self, windows: int) -> Divergence:
        """The first ``windows`` of it."""
        return Divergence(self.kl_tokens[:windows], self.agreement[:windows], self.loss[:windows], self.mode)

    def measurements(self, by: str = "") -> dict[str, Measurement]:
        """``kl``, ``kl_p99``, ``top1_agreement`` and ``perplexity`` with errors clustered by window.

        The error of the percentile is that of its values by window; that of perplexity comes from the loss by
        the delta method, and its ``per_window`` values are ``exp`` of the loss of each window.
        """
        tails = np.percentile(self.kl_tokens, _PERCENTILE, axis=1)
        perplexity = self.perplexity
        loss_error = standard_error(self.loss)
        perplexity_error = None if loss_error is None else perplexity * loss_error
        rows = (
            ("kl", "nat", float(self.kl.mean()), standard_error(self.kl), self.kl),
            ("kl_p99", "nat", self.kl_p99, standard_error(tails), tails),
            (
                "top1_agreement",
                "",
                float(self.agreement.mean()),
                standard_error(self.agreement),
                self.agreement,
            ),
            ("perplexity", "", perplexity, perplexity_error, np.exp(self.loss)),
        )
        return {
            name: Measurement(
                value=value,
                unit=unit,
                stderr=error,
                n=self.windows,
                by=by,
                per_window=tuple(float(x) for x in per_window),
            )
            for name, unit, value, error, per_window in rows
        }

    def summary(self) -> dict[str, float]:
        """The four values and the error of the KL, by metric name."""
        found = {name: m.value for name, m in self.measurements().items()}
        error = standard_error(self.kl)
        return found if error is None else {**found, "kl_stderr": error}


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean of ``values``, one a window; ``None`` for a single one."""
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / math.sqrt(len(values)))
