"""Learned rounding of one decoder block: SignRound, the method of AutoRound (Cheng et al. 2023, arXiv:2309.05516).

Offsets before rounding and the ends of every group's range descend along the signs of their gradients, at a rate that
falls linearly, so that the block's output stays what it was. Two ranges are started from, that of least squared error
(``rtn``) and that of the extreme weights (``minmax``); the best state met, by the error over all windows, is the
result, and round-to-nearest is among the states: the result is never worse on the windows it was tuned on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.quantizers import QuantizedWeight, find_quantizer
from paretune.compressors.training.fake_quantization import LearnedRounding, check_trainable
from paretune.spaces.errors import ConfigurationError, ModelError
from paretune.spaces.formats import WeightFormat

_STARTS = ("rtn", "minmax")


@dataclass(frozen=True)
class RoundingSettings:
    """How rounding is learned.

    Attributes:
        steps: of descent, from each start.
        batch_windows: windows of a step.
        learning_rate: of the first step, in steps of the format (offsets) and shares of the range; ``None``: one over
            ``steps``.
        seed: of the windows that are drawn.
        learn_scales: whether ranges are learned beside offsets.
        scale_dtype: that scales are stored in.
        checks: how often the error is measured over all windows, evenly spread.
    """

    steps: int = 200
    batch_windows: int = 8
    learning_rate: float | None = None
    seed: int = 0
    learn_scales: bool = True
    scale_dtype: torch.dtype = torch.bfloat16
    checks: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch_windows", "checks"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} {getattr(self, name)}", "must be positive", "Use 1 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ConfigurationError(
                f"learning_rate {self.learning_rate}", "must be positive", "Leave it out: 1 / steps"
            )


@dataclass(frozen=True)
class BlockLayer:
    """A linear, or the experts of one parameter, inside a block.

    Attributes:
        parameter: name of the weight within the block.
        weight_format: that it gets.
        transposed: stored ``(in, out)``.
    """

    parameter: str
    weight_format: WeightFormat
    transposed: bool = False

    def matrix(self, block: Any) -> torch.Tensor:
        """Weights in float32 ``(rows, columns)``, output rows first, experts one below the other."""
        weight: torch.Tensor = block.get_parameter(self.parameter).detach().to(torch.float32)
        return (weight.t() if self.transposed else weight.reshape(-1, weight.shape[-1])).contiguous()

    def shaped(self, matrix: torch.Tensor, block: Any) -> torch.Tensor:
        """A matrix in shape and dtype of the parameter."""
        like = block.get_parameter(self.parameter)
        return (matrix.t() if self.transposed else matrix.view(like.shape)).to(like.dtype)


def tune_block(
    block: Any,
    layers: Mapping[str, BlockLayer],
    inputs: torch.Tensor,
    targets: torch.Tensor | None,
    options: dict[str, Any],
    settings: RoundingSettings,
) -> dict[str, QuantizedWeight]:
    """Codes of a block's layers, tuned together; the block itself is not changed.

    Args:
        block: module whose parameters are dense; may be frozen.
        layers: by name.
        inputs: hidden states that enter it, ``(windows, tokens, hidden)``.
        targets: what shall come out, shaped alike; ``None``: what the dense block makes of ``inputs``.
        options: of the block's call, for ``batch_windows`` windows, or all if there are fewer.
        settings: of training.

    Raises:
        FormatError: a format that is not trained, or does not fit its layer.
        ModelError: weights or outputs that are not finite.
    """
    for layer in layers.values():
        check_trainable(layer.weight_format)
    with torch.inference_mode(mode=False), torch.enable_grad():
        block_of = _Block(block, layers, inputs, targets, ordinary(options), settings.batch_windows)
        starts = [_round(block, layers, name, settings.scale_dtype) for name in _STARTS]
        best = starts[0]
        lowest = block_of.error({name: found.dequantize() for name, found in best.items()})
        for start in starts:
            best, lowest = _descend(block_of, start, settings, best, lowest)
    return best


def ordinary(values: Any) -> Any:
    """Copies of all tensors in some nested containers: those made in inference mode take no part in training."""
    if isinstance(values, torch.Tensor):
        return values.clone()
    if isinstance(values, dict):
        return {name: ordinary(value) for name, value in values.items()}
    if type(values) in (tuple, list):
        return type(values)(ordinary(value) for value in values)
    return values


def _round(
    block: Any, layers: Mapping[str, BlockLayer], method: str, dtype: torch.dtype
) -> dict[str, QuantizedWeight]:
    quantizer = find_quantizer(method)
    return {
        name: quantizer.quantize(layer.matrix(block), layer.weight_format, None, dtype, name)
        for name, layer in layers.items()
    }


def _descend(
    task: _Block,
    start: Mapping[str, QuantizedWeight],
    settings: RoundingSettings,
    best: dict[str, QuantizedWeight],
    lowest: float,
) -> tuple[dict[str, QuantizedWeight], float]:
    """The best state on the way, and its error; ``best`` and ``lowest`` where none is better."""
    learned = {
        name: LearnedRounding(
            layer.matrix(task.module), layer.weight_format, start[name], settings.scale_dtype
        )
        for name, layer in task.layers.items()
    }
    random = torch.Generator().manual_seed(settings.seed)
    first = settings.learning_rate or 1 / settings.steps
    every = max(1, settings.steps // settings.checks)
    for step in range(settings.steps):
        task.loss({name: one.dequantized() for name, one in learned.items()}, random).backward()  # type: ignore[no-untyped-call]
        for one in learned.values():
            one.descend(first * (1 - step / settings.steps), settings.learn_scales)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            found = {name: one.result() for name, one in learned.items()}
            error = task.error({name: one.dequantize() for name, one in found.items()})
            if error < lowest:
                best, lowest = found, error
    return best, lowest


class _Block:
    """A block, what enters it and what shall come out."""

    def __init__(
        self,
        module: Any,
        layers: Mapping[str, BlockLayer],
        inputs: torch.Tensor,
        targets: torch.Tensor | None,
        options: dict[str, Any],
        batch_windows: int,
    ) -> None:
        self.module = module
        self.layers = layers
        self._inputs = inputs
        self._options = options
        self._batch = min(batch_windows, len(inputs))
        self._targets = self._dense() if targets is None else targets
        if not bool(torch.isfinite(self._targets).all()):
            raise ModelError(
                f"output of the block with {', '.join(layers)}",
                "has NaN or infinite numbers, which rounding cannot be fitted to",
                "Calibrate in float32, or leave the block to rtn",
            )

    def loss(self, weights: Mapping[str, torch.Tensor], random: torch.Generator) -> torch.Tensor:
        """Mean squared error of the output on some windows, differentiable."""
        drawn = torch.randperm(len(self._inputs), generator=random)[: self._batch].to(self._inputs.device)
        difference = self._run(self._inputs[drawn], weights).to(torch.float32) - self._targets[drawn]
        return difference.square().mean()

    @torch.no_grad()
    def error(self, weights: Mapping[str, torch.Tensor]) -> float:
        """Mean squared error over all windows."""
        total = 0.0
        for start, windows in self._batches():
            output = self._run(windows, weights)[start - self._first(start) :]
            difference = output.to(torch.float32) - self._targets[start : start + len(output)]
            total += float(difference.square().sum(dtype=torch.float64))
        return total / self._targets.numel()

    @torch.no_grad()
    def _dense(self) -> torch.Tensor:
        return torch.cat([self._run(x, {})[start - self._first(start) :] for start, x in self._batches()])

    def _first(self, start: int) -> int:
        """Where the batch begins that has window ``start``: the last one goes back, so that all have one shape."""
        return min(start, len(self._inputs) - self._batch)

    def _batches(self) -> Any:
        for start in range(0, len(self._inputs), self._batch):
            first = self._first(start)
            yield start, self._inputs[first : first + self._batch]

    def _run(self, hidden: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        swapped = {
            self.layers[name].parameter: self.layers[name].shaped(weight, self.module)
            for name, weight in weights.items()
        }
        output = torch.func.functional_call(self.module, swapped, (hidden,), self._options)
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found
