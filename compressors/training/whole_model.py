"""Quantization-aware training of a whole configuration, by distillation from the dense model.

The student is the model with every quantized weight rounded on the way forward (LSQ, Esser et al. 2019,
arXiv:1902.08153); the loss is KL(dense || student) of every token and nothing else (as in LLM-QAT, Liu et al. 2023,
arXiv:2305.17888), so that text without labels is enough. AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) with
rates that fall along a cosine. Some windows are held out: they choose the state that is returned, the start among
them, and end training that no longer helps. What else the model holds (norms, biases, dense sites) stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from paretune.compressors.bank import Bank
from paretune.compressors.observation import micro_batches
from paretune.compressors.quantizers import QuantizedWeight, find_quantizer
from paretune.compressors.quantizers.quantized_weight import join_rows
from paretune.compressors.training.block_rounding import BlockLayer
from paretune.compressors.training.fake_quantization import LearnedWeight, check_trainable
from paretune.compressors.training.training_settings import TrainingResult, TrainingSettings
from paretune.compressors.windows import TokenWindows
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ConfigurationError, TextError
from paretune.spaces.model import ModelSpec


def train(
    model: Any,
    spec: ModelSpec,
    config: CompressionConfig,
    windows: TokenWindows,
    settings: TrainingSettings | None = None,
    start: Mapping[str, QuantizedWeight] | None = None,
) -> TrainingResult:
    """Codes of a configuration's sites, trained together; the model itself is not changed.

    Args:
        model: in its dense state: teacher, and what the student is made of.
        spec: of the model.
        config: whose sites have integer formats.
        windows: text to train on.
        settings: of training.
        start: codes and scales by site that training starts from (of the configuration's methods, say); round-to-
            nearest where left out.

    Raises:
        ConfigurationError: a configuration that is more than weight formats; predictions that are not finite.
        FormatError: a format that is not trained, or does not fit its site.
        ModelError: weights that are not finite.
        TextError: too few windows to hold one out.
    """
    settings = settings or TrainingSettings()
    _check(spec, config)
    windows.check_vocabulary(spec.vocabulary)
    with torch.inference_mode(mode=False), torch.enable_grad():
        student = _Student(model, spec, config, settings, start or {})
        taught, held_out = _divided(windows, settings.held_out)
        return _run(student, taught, held_out, settings)


def bank_start(bank: Bank, config: CompressionConfig) -> dict[str, QuantizedWeight]:
    """The bank's own codes of a configuration's sites, experts one below the other: a start for :func:`train`."""
    found = {}
    for name, choice in config.layers.items():
        experts = range(bank.spec.linear(name).experts)
        parts = [bank.quantized(name, choice, config.pruned, expert) for expert in experts]
        found[name] = join_rows([part for part in parts if part is not None])
    return found


def train_best(
    model: Any,
    spec: ModelSpec,
    config: CompressionConfig,
    windows: TokenWindows,
    settings: TrainingSettings,
    start: Mapping[str, QuantizedWeight],
) -> TrainingResult:
    """Trained from ``start`` and from round-to-nearest, the better of both on the held-out windows.

    Neither wins always: at 2 bits, what GPTQ makes of a weight lies far from it, and training goes on worse from there.
    """
    found = [train(model, spec, config, windows, settings, first) for first in (start, None)]
    return min(found, key=lambda result: result.kl_after)


def _run(
    student: _Student, taught: torch.Tensor, held_out: torch.Tensor, settings: TrainingSettings
) -> TrainingResult:
    optimizer = torch.optim.AdamW(student.groups(settings), weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps, eta_min=0.0)
    best, lowest = student.results(), student.divergence(held_out)
    curve, stale = [(0, lowest)], 0
    every = max(1, settings.steps // settings.checks)
    drawn = _draw(taught, settings)
    for step in range(1, settings.steps + 1):
        optimizer.zero_grad()
        student.learn(next(drawn))
        optimizer.step()
        schedule.step()
        if step % every and step != settings.steps:
            continue
        curve.append((step, student.divergence(held_out)))
        stale += 1
        if curve[-1][1] < lowest:
            best, lowest, stale = student.results(), curve[-1][1], 0
        if stale >= settings.patience:
            break
    return TrainingResult(best, curve[0][1], lowest, tuple(curve), len(held_out))


class _Student:
    """The model with learned weights in place of its own."""

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        config: CompressionConfig,
        settings: TrainingSettings,
        start: Mapping[str, QuantizedWeight],
    ) -> None:
        self._model = model
        self._tokens = settings.tokens_at_once
        linears = [spec.linear(name) for name in config.layers]
        self._layers = {
            x.name: BlockLayer(x.parameter, config.choice(x.name).weight, x.transposed)
            for x in linears
            if not (spec.tied and x.role == "head")
        }
        nearest, dtype = find_quantizer("rtn"), settings.scale_dtype
        self._learned: dict[str, LearnedWeight] = {}
        for name, layer in self._layers.items():
            weight, wanted = layer.matrix(model), layer.weight_format
            first = start.get(name) or nearest.quantize(weight, wanted, None, dtype, name)
            self._learned[name] = LearnedWeight(weight, wanted, first, dtype)

    def groups(self, settings: TrainingSettings) -> list[dict[str, Any]]:
        """What is trained, at which rates."""
        scales = [one.factors for one in self._learned.values()]
        found: list[dict[str, Any]] = [{"params": scales, "lr": settings.scale_rate}]
        if settings.learn_weights:
            weights = [one.weights for one in self._learned.values()]
            found.append({"params": weights, "lr": settings.weight_rate})
        return found

    def learn(self, ids: torch.Tensor) -> None:
        """Add up the gradients of the mean KL of some windows, micro-batch by micro-batch."""
        for batch in micro_batches(ids, self._tokens):
            (self._kl(batch).sum() / ids.numel()).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def divergence(self, ids: torch.Tensor) -> float:
        """Mean KL of some windows, in nats a token."""
        total = sum(float(self._kl(x).sum(dtype=torch.float64)) for x in micro_batches(ids, self._tokens))
        if not total < float("inf"):
            raise ConfigurationError(
                "predictions of the student",
                "are not finite, so they cannot be learned from",
                "Use a lower rate, or wider formats",
            )
        return total / ids.numel()

    def results(self) -> dict[str, QuantizedWeight]:
        """Codes as they are now."""
        return {name: one.result() for name, one in self._learned.items()}

    def _kl(self, ids: torch.Tensor) -> torch.Tensor:
        """KL(dense || student), ``(windows, tokens)``."""
        moved = ids.to(self._model.device)
        with torch.no_grad():
            dense = self._log_probs({}, moved)
        swapped = {
            self._layers[name].parameter: self._layers[name].shaped(one.dequantized(), self._model)
            for name, one in self._learned.items()
        }
        return (dense.exp() * (dense - self._log_probs(swapped, moved))).sum(dim=-1)

    def _log_probs(self, swapped: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        call = {"input_ids": ids, "use_cache": False}
        logits = torch.func.functional_call(self._model, swapped, (), call).logits
        return torch.log_softmax(logits.to(torch.float32), dim=-1)


def _check(spec: ModelSpec, config: CompressionConfig) -> None:
    """Only formats of weights are trained: what else a configuration says would be lost on the way."""
    if not config.layers:
        raise ConfigurationError(
            "a configuration without sites", "has nothing to train", "Quantize some sites"
        )
    if not config.pruned.whole:
        raise ConfigurationError(
            f"student {config.pruned.name}",
            "is not trained here",
            "Train a configuration of the whole model",
        )
    if config.kv != type(config.kv)():
        raise ConfigurationError("a rounded cache", "is not trained with", "Set the cache after training")
    for name, choice in config.layers.items():
        spec.linear(name)
        if choice.sparsity is not None or choice.activation is not None:
            raise ConfigurationError(
                f"choice {choice.name} of {name}",
                "rounds inputs or prunes, and only formats of weights are trained",
                "Leave activation and sparsity out",
            )
        check_trainable(choice.weight)


def _divided(windows: TokenWindows, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows to learn from, and the last ones, held out."""
    kept = max(1, round(windows.count * share))
    if kept >= windows.count:
        raise TextError(
            f"{windows.count} windows of the {windows.text} text",
            "are too few to train on and to hold one out",
            "Give a longer text, or shorter windows",
        )
    return windows.ids[:-kept], windows.ids[-kept:]


def _draw(ids: torch.Tensor, settings: TrainingSettings) -> Iterator[torch.Tensor]:
    """Batches without end; every window once before any comes again."""
    random = torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch_windows, len(ids))
    while True:
        order = torch.randperm(len(ids), generator=random)
        for start in range(0, len(ids) - size + 1, size):
            yield ids[order[start : start + size]]
