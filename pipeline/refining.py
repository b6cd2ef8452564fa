"""``paretune export --refine``: the weights of one chosen configuration made again, which no bank could do beforehand.

``gptq`` rounds in sequence, every layer against what the compressed model feeds it; ``autoround`` learns the rounding
of each block; ``qat`` trains the whole configuration against the dense model. All use the calibration text.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.compressors.assembly import Assembler
from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.training.block_rounding import RoundingSettings
from paretune.compressors.training.model_rounding import tune_model
from paretune.compressors.training.refinement import refine
from paretune.compressors.training.training_settings import TrainingSettings
from paretune.compressors.training.whole_model import bank_start, train_best
from paretune.compressors.weight_provider import Overlay
from paretune.pipeline.progress import Stages
from paretune.pipeline.workbench import Workbench
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import ConfigurationError, UnknownNameError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.measurement import Fidelity
from paretune.spaces.methods import scaled_blocks
from paretune.spaces.numerals import signed
from paretune.spaces.statistics import Difference, difference

METHODS = ("gptq", "autoround", "qat")


@dataclass(frozen=True)
class Refined:
    """A configuration with other weights, and what that did on the report text.

    Attributes:
        assembler: gives the refined candidate for its configuration.
        method: how it was refined.
        kl_before: of the bank's weights, nats a token.
        kl_after: of the refined ones.
        change: after less before, paired by window.
        figures: quality of the refined candidate by metric.
    """

    assembler: Assembler
    method: str
    kl_before: float
    kl_after: float
    change: Difference
    figures: dict[str, float | None]

    @property
    def line(self) -> str:
        """One line for people."""
        return (
            f"refined by {self.method}: KL {self.kl_before:.4g} -> {self.kl_after:.4g} nat per token on the report text"
            f" (paired difference {signed(self.change.value, self.change.stderr)})"
        )


def refine_member(bench: Workbench, config: CompressionConfig, method: str, stages: Stages) -> Refined:
    """Make the weights of ``config`` again by ``method`` and read both on the report text.

    Raises:
        UnknownNameError: no such method.
        ConfigurationError: the configuration has nothing to refine.
    """
    if method not in METHODS:
        raise UnknownNameError("method of refinement", method, METHODS)
    windows = bench.windows["report"]
    fidelity = Fidelity(text="report", windows=windows.count, window_tokens=windows.window_tokens)
    before = bench.quality.evaluate(config, fidelity)["kl"]
    with stages.stage("refine", f"refining by {method}"):
        weights = _weights(bench, config, method, stages)
    model = bench.assembler.apply(DENSE_CONFIG)
    assembler = Assembler(model, bench.spec, Overlay(bench.bank, weights, method))
    quality = bench.quality.of(assembler)
    after = quality.evaluate(config, fidelity)
    figures: dict[str, float | None] = {name: found.value for name, found in after.items()}
    return Refined(
        assembler, method, before.value, after["kl"].value, difference(after["kl"], before), figures
    )


def _weights(
    bench: Workbench, config: CompressionConfig, method: str, stages: Stages
) -> dict[str, QuantizedWeight]:
    windows, dtype = bench.windows["calibration"], bench.bank.scale_dtype
    if method == "gptq":
        return refine(bench.assembler, config, windows, stages.report)
    formats = _trainable(bench, config, method)
    dense = bench.assembler.apply(DENSE_CONFIG)
    if method == "autoround":
        settings = RoundingSettings(seed=bench.run.search.seed, scale_dtype=dtype)
        return dict(tune_model(dense, bench.spec, windows, formats, settings, sequential=True))
    start = bank_start(bench.bank, config)
    training = TrainingSettings(seed=bench.run.search.seed, scale_dtype=dtype)
    return train_best(dense, bench.spec, config, windows, training, start).weights


def _trainable(bench: Workbench, config: CompressionConfig, method: str) -> dict[str, WeightFormat]:
    """Formats by layer of what can be trained.

    Raises:
        ConfigurationError: a pruned model, zeros or rounded inputs, which training would not keep; or nothing
        quantized.
    """
    if not config.pruned.whole or any(c.sparsity or c.activation for c in config.layers.values()):
        raise ConfigurationError(
            "a member with a pruned size, zeros or rounded inputs",
            f"is not kept so by {method}",
            "Refine it by gptq, or choose another member",
        )
    if scaled_blocks(bench.spec, config):
        raise ConfigurationError(
            "a member with blocks that awq scaled",
            f"does not go with {method}, which starts from the weights of the dense model",
            "Refine it by gptq, or choose another member",
        )
    linears = {layer: bench.spec.linear(layer) for layer in config.layers}
    found = {
        layer: choice.weight
        for layer, choice in config.layers.items()
        if choice.weight.number_type == "int" and (method == "qat" or linears[layer].block is not None)
    }
    if not found:
        raise ConfigurationError(
            "a member without integer weights", f"has nothing that {method} refines", "Choose another member"
        )
    return found
