"""How a whole configuration is trained, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.errors import ConfigurationError


@dataclass(frozen=True)
class TrainingSettings:
    """Of :func:`paretune.compressors.training.whole_model.train`.

    Attributes:
        steps: of AdamW, at most.
        batch_windows: windows of a step.
        weight_rate: first learning rate of weights, in steps of their format.
        scale_rate: of scales, as a share of where they start.
        learn_weights: train weights beside scales.
        held_out: share of the windows that choose the result, at least one window.
        checks: how often the held-out windows are read, evenly spread.
        patience: checks without improvement after which training ends.
        seed: of the order of windows.
        scale_dtype: that scales are stored in.
        tokens_at_once: of a micro-batch, whose logits are in memory.
    """

    steps: int = 200
    batch_windows: int = 8
    weight_rate: float = 0.003
    scale_rate: float = 0.001
    learn_weights: bool = True
    held_out: float = 0.125
    checks: int = 10
    patience: int = 4
    seed: int = 0
    scale_dtype: torch.dtype = torch.bfloat16
    tokens_at_once: int = 2048

    def __post_init__(self) -> None:
        for name in ("steps", "batch_windows", "checks", "patience", "tokens_at_once"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} {getattr(self, name)}", "must be positive", "Use 1 or more")
        for name in ("weight_rate", "scale_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigurationError(f"{name} {getattr(self, name)}", "must be positive", "Use e.g. 0.01")
        if not 0 < self.held_out < 1:
            raise ConfigurationError(
                f"held_out {self.held_out}", "is a share between 0 and 1", "Use e.g. 0.125"
            )


@dataclass(frozen=True)
class TrainingResult:
    """What training made.

    Attributes:
        weights: by layer, as the container holds them.
        kl_before: of the start on the held-out windows, nats a token.
        kl_after: likewise of ``weights``; never more. It chose them, so another text is the judge.
        curve: steps and KL at every check.
        held_out_windows: how many they were.
    """

    weights: dict[str, QuantizedWeight]
    kl_before: float
    kl_after: float
    curve: tuple[tuple[int, float], ...]
    held_out_windows: int
