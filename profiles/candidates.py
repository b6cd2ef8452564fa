"""What advice compares: uniform formats, sparsity and smaller pruned models, at a target, and how much of them fits.

A uniform format covers the linears inside the blocks; embedding, head and norms stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from paretune.profiles.roofline import Roofline, roofline
from paretune.profiles.work import Case, sparse_2_4_share
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import ConfigurationError, FormatError
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import Restrictions
from paretune.spaces.pruned_sizes import pruned_ladders
from paretune.spaces.size import check_heads, kept_linears, layer_bytes, memory_bytes, weight_bytes
from paretune.spaces.target import Device, Workload

Approach = Literal["dense", "quantize", "prune", "pruned"]
SPARSE_GENERATIONS = ("ampere", "ada", "hopper", "blackwell")
"""GPUs with arithmetic for 2:4 sparsity."""
USABLE_SHARE = 0.9
"""Of the memory: what serving engines take by default; the rest is left to driver and runtime."""
_GROUP_SIZES = (128, 64, 32, 16)
_MOST_SEQUENCES = 2**20


@dataclass(frozen=True)
class Candidate:
    """A configuration and how it would be executed.

    Attributes:
        name: short, e.g. ``int4``.
        label: for people.
        approach: what kind of compression it is.
        config: see there.
        sparse_2_4: 2:4 zeros are neither stored, read nor multiplied.
        needs: what it asks of the engine, in words; empty for what every engine has.
    """

    name: str
    label: str
    approach: Approach
    config: CompressionConfig
    sparse_2_4: bool = False
    needs: str = ""

    def weight_bytes(self, spec: ModelSpec) -> int:
        """Bytes of the export."""
        total, config = weight_bytes(spec, self.config), self.config
        if not self.sparse_2_4:
            return total
        left_out = 0.0
        for linear in kept_linears(spec, config):
            choice = config.choice(linear.name)
            if choice.sparsity is not None and choice.sparsity.pattern == "2:4":
                share = 1 - sparse_2_4_share(choice.weight.num_bits)
                left_out += share * layer_bytes(spec, linear, config).payload
        return total - int(left_out)


DENSE = Candidate("dense", "as it is", "dense", DENSE_CONFIG)


@dataclass(frozen=True)
class Target:
    """What advice is asked about.

    Raises:
        ConfigurationError: prompt and output are longer than the model's context, or heads cannot be divided among
            the devices.
    """

    spec: ModelSpec
    device: Device
    workload: Workload

    def __post_init__(self) -> None:
        check_workload(self.spec, self.workload)

    @property
    def usable_bytes(self) -> int:
        """Memory that weights, cache and activations may have, on each device."""
        return int(USABLE_SHARE * self.device.memory_bytes)


def check_workload(spec: ModelSpec, workload: Workload) -> None:
    """Refuse a workload that the model cannot have.

    Raises:
        ConfigurationError: prompt and output are longer than the model's context, or heads cannot be divided among
            the devices.
    """
    check_heads(spec, workload)
    if workload.context > spec.context:
        raise ConfigurationError(
            f"workload {workload.name}",
            f"its {workload.context:,} tokens exceed the model's context of {spec.context:,}",
            "Shorten prompt or output",
        )


@dataclass(frozen=True)
class Scored:
    """A candidate at a target: bytes, memory, floors of latency."""

    target: Target
    candidate: Candidate

    @property
    def case(self) -> Case:
        """What the roofline counts."""
        target, candidate = self.target, self.candidate
        return Case(target.spec, candidate.config, target.workload, target.device, candidate.sparse_2_4)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the export."""
        return self.candidate.weight_bytes(self.target.spec)

    @cached_property
    def memory_bytes(self) -> int:
        """On each device at the workload."""
        return self.memory_at(self.target.workload)

    def memory_at(self, workload: Workload) -> int:
        """On each device at another workload."""
        return memory_bytes(self.target.spec, self.candidate.config, workload, self.weight_bytes)

    @property
    def fits(self) -> bool:
        """Whether that is at most what is usable."""
        return self.memory_bytes <= self.target.usable_bytes

    @cached_property
    def floors(self) -> Roofline:
        """Of latency."""
        return roofline(self.case)

    @property
    def request_s(self) -> float:
        """Of one batch, first to last token."""
        return self.floors.request_s(self.target.workload)

    @cached_property
    def quantized_bytes(self) -> int:
        """Stored bytes of the layers that are not dense."""
        spec, config = self.target.spec, self.candidate.config
        return sum(
            layer_bytes(spec, linear, config).payload
            for linear in kept_linears(spec, config)
            if not config.choice(linear.name).weight.dense
        )

    @property
    def largest_batch(self) -> int:
        """Sequences of the workload's lengths that fit together; 0 when not even one does."""
        return self._largest("batch", _MOST_SEQUENCES)

    @property
    def largest_context(self) -> int:
        """Tokens, prompt and output together, that the batch can have; at most the model's own context.

        0 when the workload's output does not even fit behind a prompt of one token.
        """
        output = self.target.workload.output_tokens
        prompt = self._largest("prompt_tokens", max(0, self.target.spec.context - output))
        return prompt + output if prompt else 0

    def _largest(self, field: str, most: int) -> int:
        """The largest value from 1 to ``most`` that fits, where everything below it fits too; 0 if none does."""

        def fits(value: int) -> bool:
            asked = self.target.workload.model_copy(update={field: value})
            return self.memory_at(asked) <= self.target.usable_bytes

        low, high = 0, 1
        while high <= most and fits(high):
            low, high = high, 2 * high
        high = min(high, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def uniform_candidates(spec: ModelSpec, device: Device) -> tuple[Candidate, ...]:
    """Dense, and the uniform formats: 8-bit weights, 8-bit weights and inputs, FP8, 4-bit weights."""
    peaks, four = device.peak_operations_per_s, integer_format(4, four_bit_group(spec))
    group = "one scale per row" if four.group_size is None else f"groups of {four.group_size}"
    found = [DENSE, _uniform(spec, "int8", "8-bit weights", find_choice("int8-channel/rtn"))]
    if "int8" in peaks:
        both = _uniform(spec, "int8-both", "8-bit weights and inputs", find_choice("w8a8-dynamic/rtn"))
        found.append(replace(both, needs="an engine with INT8 products"))
    if "fp8" in peaks:
        found.append(_uniform(spec, "fp8", "FP8 weights and inputs", find_choice("fp8-dynamic")))
    else:
        label = "FP8 weights, expanded: no FP8 arithmetic here"
        stored = _uniform(spec, "fp8", label, find_choice("fp8-channel"))
        found.append(replace(stored, needs="an engine that stores FP8"))
    found.append(_uniform(spec, "int4", f"4-bit weights, {group}", LayerChoice(weight=four, method="rtn")))
    return tuple(found)


def _uniform(spec: ModelSpec, name: str, label: str, choice: LayerChoice) -> Candidate:
    return Candidate(name, label, "quantize", everywhere(spec, choice))


def everywhere(spec: ModelSpec, choice: LayerChoice) -> CompressionConfig:
    """One choice for every linear inside the blocks."""
    return CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})


def four_bit_group(spec: ModelSpec) -> int | None:
    """The largest usual group size that divides every row inside the blocks; ``None``: one scale per row."""
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
        words = "KV heads" if kind == "kv_heads" else "FFN channels"
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
