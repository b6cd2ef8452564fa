"""What advice compares: uniform formats, sparsity and smaller pruned models, each with its execution.

A uniform format covers the linears inside the blocks; embedding, head and norms stay as they are. FP8 has no
format in :mod:`spaces`; it stores one byte a weight and one scale a row, as ``int8-channel`` does, so its
bytes are those of the 8-bit configuration without the shape records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paretune.profiles.work import WEIGHT_ONLY, Execution, sparse_2_4_share
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.patterns import Restrictions
from paretune.spaces.pruned_sizes import pruned_ladders
from paretune.spaces.size import kept_linears, layer_bytes, memory_bytes, weight_bytes
from paretune.spaces.target import Device, Workload

Approach = Literal["dense", "quantize", "prune", "pruned"]
SPARSE_GENERATIONS = ("ampere", "ada", "hopper", "blackwell")
"""GPUs with arithmetic for 2:4 sparsity."""
_GROUP_SIZES = (128, 64, 32, 16)


@dataclass(frozen=True)
class Candidate:
    """A configuration and how it would be executed.

    Attributes:
        name: short, e.g. ``int4``.
        label: for people.
        approach: what kind of compression it is.
        config, execution: see there.
        shape_records: the container of ``config`` writes them and this format does not.
        needs: what it asks of the engine, in words; empty for what every engine has.
    """

    name: str
    label: str
    approach: Approach
    config: CompressionConfig
    execution: Execution = WEIGHT_ONLY
    shape_records: bool = True
    needs: str = ""

    def weight_bytes(self, spec: ModelSpec) -> int:
        """Bytes of the export."""
        total = weight_bytes(spec, self.config) - self._zeros_left_out(spec)
        if not self.shape_records:
            total -= sum(
                layer_bytes(spec, linear, self.config).overhead for linear in kept_linears(spec, self.config)
            )
        return total

    def memory_bytes(self, spec: ModelSpec, workload: Workload, weights: int | None = None) -> int:
        """Weights, cache and activations on each device; ``weights`` saves computing :meth:`weight_bytes`."""
        total = self.weight_bytes(spec) if weights is None else weights
        return memory_bytes(spec, self.config, workload, total)

    def _zeros_left_out(self, spec: ModelSpec) -> int:
        if not self.execution.sparse_2_4:
            return 0
        kept = 0.0
        for linear in kept_linears(spec, self.config):
            choice = self.config.choice(linear.name)
            if choice.sparsity is not None and choice.sparsity.pattern == "2:4":
                kept += (1 - sparse_2_4_share(choice.weight.num_bits)) * layer_bytes(
                    spec, linear, self.config
                ).payload
        return int(kept)


DENSE = Candidate("dense", "as it is", "dense", DENSE_CONFIG)


def uniform_candidates(spec: ModelSpec, device: Device) -> tuple[Candidate, ...]:
    """Dense, and the uniform formats: 8-bit weights, 8-bit weights and inputs, FP8, 4-bit weights."""
    eight, four = integer_format(8, None), integer_format(4, four_bit_group(spec))
    weights_8 = _everywhere(spec, LayerChoice(weight=eight, method="rtn"))
    both_8 = _everywhere(spec, LayerChoice(weight=eight, activation=ActivationFormat(), method="rtn"))
    weights_4 = _everywhere(spec, LayerChoice(weight=four, method="rtn"))
    found = [DENSE, Candidate("int8", "8-bit weights", "quantize", weights_8)]
    if "int8" in device.peak_operations_per_s:
        found.append(
            Candidate(
                "int8-both",
                "8-bit weights and inputs",
                "quantize",
                both_8,
                Execution(rounds_inputs=True),
                needs="an engine with INT8 products",
            )
        )
    found.append(_fp8(weights_8, device))
    label = "4-bit weights, " + (
        "a scale a row" if four.group_size is None else f"groups of {four.group_size}"
    )
    found.append(Candidate("int4", label, "quantize", weights_4))
    return tuple(found)


def _fp8(weights_8: CompressionConfig, device: Device) -> Candidate:
    if "fp8" in device.peak_operations_per_s:
        execution = Execution(arithmetic="fp8", rounds_inputs=True)
        return Candidate("fp8", "FP8 weights and inputs", "quantize", weights_8, execution, False)
    label = "FP8 weights, expanded: no FP8 arithmetic here"
    return Candidate(
        "fp8", label, "quantize", weights_8, shape_records=False, needs="an engine that stores FP8"
    )


def four_bit_group(spec: ModelSpec) -> int | None:
    """The largest usual group size that divides every row inside the blocks; ``None``: a scale a row."""
    rows = {linear.in_features for linear in spec.block_linears}
    return next((size for size in _GROUP_SIZES if all(row % size == 0 for row in rows)), None)


def eight_bit_cache(config: CompressionConfig) -> CompressionConfig:
    """The same with keys and values in 8 bits."""
    return config.replaced(kv=KVFormat(num_bits=8))


def half_zeros(spec: ModelSpec, config: CompressionConfig) -> CompressionConfig:
    """The same with 2:4 zeros in every linear inside the blocks."""
    zeros = Sparsity(fraction=0.5, pattern="2:4")
    layers = {
        linear.name: config.choice(linear.name).model_copy(update={"sparsity": zeros})
        for linear in spec.block_linears
        if config.keeps_block(linear.block)
    }
    return config.replaced(layers={**config.layers, **layers})


Labelled = tuple[str, CompressionConfig]


def smaller_pruned(spec: ModelSpec, config: CompressionConfig) -> dict[str, Labelled]:
    """Label and configuration of the smallest default pruned model in each direction still open in ``config``."""
    found: dict[str, Labelled] = {}
    for kind, ladder in pruned_ladders(spec, Restrictions()).items():
        if not ladder or getattr(config.pruned, kind) is not None:
            continue
        count = ladder[-1]
        if kind == "blocks":
            kept = tuple(range(count))
            pruned = config.pruned.model_copy(update={"blocks": kept})
            layers = {
                name: c for name, c in config.layers.items() if pruned.keeps_block(spec.linear(name).block)
            }
            found["fewer-blocks"] = (
                f"a pruned model of {count} of {spec.blocks} blocks",
                config.replaced(pruned=pruned, layers=layers),
            )
            continue
        full = spec.kv_heads if kind == "kv_heads" else spec.ffn_size
        words = "key-value heads" if kind == "kv_heads" else "FFN channels"
        name = "fewer-heads" if kind == "kv_heads" else "narrower-ffn"
        smaller = config.replaced(pruned=config.pruned.model_copy(update={kind: count}))
        if _divides(spec, smaller):
            found[name] = (f"a pruned model of {count} of {full} {words}", smaller)
    return found


def _divides(spec: ModelSpec, config: CompressionConfig) -> bool:
    try:
        weight_bytes(spec, config)
    except FormatError:
        return False
    return True


def _everywhere(spec: ModelSpec, choice: LayerChoice) -> CompressionConfig:
    return CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})
