"""A candidate beside the dense model, window by window: the numbers and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from paretune.spaces.errors import BrokenCandidateError
from paretune.spaces.measurement import Measurement, Sample
from paretune.spaces.statistics import Estimate, mean, measure, measure_percentile, numbered


@dataclass(frozen=True)
class Divergence:
    """What comparing with the dense model found on some windows.

    Attributes:
        kl_tokens: KL of every token in nats, float64 ``(windows, tokens)``.
        agreement: share of tokens whose most likely prediction is the dense model's, float64 ``(windows,)``.
        loss: the candidate's own next-token loss in nats, float64 ``(windows,)``.
        mode: of the teacher, ``full`` or ``top-K``.
        sample: the windows.
    """

    kl_tokens: np.ndarray
    agreement: np.ndarray
    loss: np.ndarray
    mode: str
    sample: Sample

    @classmethod
    def of(
        cls,
        kl_tokens: torch.Tensor,
        agreement: torch.Tensor,
        loss: torch.Tensor,
        mode: str,
        sample: Sample | None = None,
    ) -> Divergence:
        """From tensors; windows without a ``sample`` are known by their number.

        Raises:
            BrokenCandidateError: the candidate predicts NaN or infinities.
        """
        arrays = [values.to(torch.float64).cpu().numpy() for values in (kl_tokens, agreement, loss)]
        finite = np.isfinite(arrays[0])
        if not all(np.isfinite(values).all() for values in arrays):
            raise BrokenCandidateError(
                "predictions of the candidate",
                f"are not finite at {int((~finite).sum())} of {finite.size} tokens, so it has no quality",
                "Use wider formats, or float32 for scoring",
            )
        return cls(arrays[0], arrays[1], arrays[2], mode, sample or numbered(len(arrays[2])))

    @property
    def windows(self) -> int:
        """How many were read."""
        return len(self.loss)

    @property
    def kl(self) -> np.ndarray:
        """Mean KL of each window, ``(windows,)``."""
        return np.asarray(self.kl_tokens.mean(axis=1))

    @property
    def mean_kl(self) -> Estimate:
        """Of all windows."""
        return mean(self.kl, self.sample)

    def joined(self, after: Divergence) -> Divergence:
        """Together with the windows that were read after these."""
        return Divergence(
            np.concatenate([self.kl_tokens, after.kl_tokens]),
            np.concatenate([self.agreement, after.agreement]),
            np.concatenate([self.loss, after.loss]),
            self.mode,
            self.sample.joined(after.sample),
        )

    def first(self, windows: int) -> Divergence:
        """The first ``windows`` of it."""
        return replace(
            self,
            kl_tokens=self.kl_tokens[:windows],
            agreement=self.agreement[:windows],
            loss=self.loss[:windows],
            sample=self.sample.first(windows),
        )

    def measurements(self, by: str = "") -> dict[str, Measurement]:
        """``kl``, ``kl_p99``, ``top1_agreement`` and ``perplexity`` with their errors and what pairing needs."""
        sample = self.sample
        return {
            "kl": measure(self.kl, sample, unit="nat", by=by),
            "kl_p99": measure_percentile(self.kl_tokens, sample, unit="nat", by=by),
            "top1_agreement": measure(self.agreement, sample, by=by),
            "perplexity": measure(self.loss, sample, estimator="exp_mean", by=by),
        }
