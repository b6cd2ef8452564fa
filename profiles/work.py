"""How much work a model is: bytes that must move and operations that must be done, by phase.

Counted from shapes and stored bytes alone (Williams et al. 2009, "Roofline"; for language models: Pope et al.
2022, arXiv:2211.05102). A multiply-add is two operations. Attention is counted as one fused kernel that reads
keys and values once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.groups import fused_groups
from paretune.spaces.model import CacheLayer, Linear, ModelSpec
from paretune.spaces.size import fixed_bytes, kept_extent, kept_shape, kv_copies, layer_bytes
from paretune.spaces.target import Device, Workload

Phase = Literal["prefill", "decode"]

KERNELS_A_BLOCK = 6
"""Besides its linears: two normalizations, rotary embedding, cache write, attention, gate."""
KERNELS_A_MIXTURE = 3
"""More in a block with experts: router, sorting of tokens, sum of the experts."""
KERNELS_OUTSIDE = 4
"""Embedding, last normalization, head, choice of the token."""


@dataclass(frozen=True)
class Case:
    """One candidate of one model at one workload on one device.

    Weights alone are expanded and multiplied as dense ones are; where inputs are rounded and the device can multiply
    what they become, products are in that arithmetic, and one kernel more for each fused group rounds.

    Attributes:
        sparse_2_4: 2:4 zeros are neither read nor multiplied.
    """

    spec: ModelSpec
    config: CompressionConfig
    workload: Workload
    device: Device
    sparse_2_4: bool = False

    @property
    def dense_arithmetic(self) -> str:
        """Of unquantized products: ``bf16`` for 16-bit models where the device has it, else ``fp32``."""
        halves = self.spec.dtype != "float32" and "bf16" in self.device.peak_operations_per_s
        return "bf16" if halves else "fp32"

    def arithmetic(self, layer: str) -> str:
        """Of the products with the weights of ``layer``."""
        choice = self.config.choice(layer)
        if choice.weight.dense or choice.activation is None:
            return self.dense_arithmetic
        narrow = "int8" if choice.activation.number_type == "int" else "fp8"
        return narrow if narrow in self.device.peak_operations_per_s else self.dense_arithmetic


@dataclass(frozen=True, slots=True)
class Work:
    """One kernel, on all devices of ``tensor_parallel`` together: what several of them hold, each of them reads.

    Attributes:
        part: what its stored bytes are.
        arithmetic: key of ``Device.peak_operations_per_s``.
        stored_bytes: weights or cache that it reads.
        moved_bytes: inputs and outputs.
        operations: multiplications and additions.
    """

    part: Literal["weights", "cache"]
    arithmetic: str
    stored_bytes: float
    moved_bytes: float
    operations: float


def work(case: Case, phase: Phase) -> Iterator[Work]:
    """The kernels of reading the prompts of a batch, or of one decoding step in the middle of the output."""
    spec, batch = case.spec, case.workload.batch
    tokens = batch * (case.workload.prompt_tokens if phase == "prefill" else 1)
    for linear in spec.linears:
        if linear.role == "embedding":
            yield _look_up(case, linear, tokens)
        elif case.config.keeps_block(linear.block):
            yield _product(case, linear, batch if linear.role == "head" else tokens)
    for block, layer in enumerate(spec.cache):
        if case.config.keeps_block(block):
            yield _attention(case, block, layer, phase)
    norms = (fixed_bytes(spec, tensor, case.config) for tensor in spec.fixed if tensor.block is not None)
    yield Work("weights", case.dense_arithmetic, float(case.workload.tensor_parallel * sum(norms)), 0.0, 0.0)


def launches(case: Case) -> int:
    """Kernels of one pass, with q/k/v and gate/up fused as serving engines do."""
    count = KERNELS_OUTSIDE
    for group in fused_groups(case.spec):
        if group.block is not None and case.config.keeps_block(group.block):
            count += 1 if case.config.choice(group.layers[0]).activation is None else 2
    blocks = sum(case.config.keeps_block(block) for block in range(case.spec.blocks))
    return count + blocks * (KERNELS_A_BLOCK + (KERNELS_A_MIXTURE if case.spec.experts else 0))


def touched_experts(experts: int, active: int, tokens: int) -> float:
    """Experts that at least one of ``tokens`` uses, in expectation when routing is uniform."""
    missed: float = (1.0 - active / experts) ** tokens
    return experts * (1.0 - missed)


def sparse_2_4_share(num_bits: int) -> float:
    """Share of its bytes that a matrix keeps in 2:4: half of the values, two bits of index for each."""
    return 0.5 + 1 / num_bits


def attended_pairs(tokens: int, window: int | None) -> int:
    """Pairs of query and key that causal attention multiplies over a prompt of ``tokens``."""
    wide = tokens if window is None else min(tokens, window)
    return wide * (wide + 1) // 2 + (tokens - wide) * wide


def _look_up(case: Case, embedding: Linear, tokens: int) -> Work:
    rows = layer_bytes(case.spec, embedding, case.config).payload / embedding.out_features * tokens
    written = tokens * embedding.in_features * case.spec.dtype_bytes
    return Work("weights", case.dense_arithmetic, rows, float(written), 0.0)


def _product(case: Case, linear: Linear, tokens: int) -> Work:
    spec, config = case.spec, case.config
    layer = spec.embedding if spec.tied and linear.role == "head" else linear
    out_features, in_features = kept_shape(spec, linear, config.pruned)
    stored = float(layer_bytes(spec, layer, config).payload)
    pairs = tokens
    if linear.experts > 1:
        pairs *= spec.active_experts
        stored *= touched_experts(linear.experts, spec.active_experts, tokens) / linear.experts
    operations = 2.0 * pairs * out_features * in_features
    choice = config.choice(layer.name)
    if case.sparse_2_4 and choice.sparsity is not None and choice.sparsity.pattern == "2:4":
        stored, operations = stored * sparse_2_4_share(choice.weight.num_bits), operations / 2
    moved = float(pairs * (out_features + in_features) * spec.dtype_bytes)
    if linear.out_axis == "kv_heads":
        copies = kv_copies(spec, config, case.workload.tensor_parallel)
        stored, operations = copies * stored, copies * operations
    return Work("weights", case.arithmetic(layer.name), stored, moved, operations)


def _attention(case: Case, block: int, layer: CacheLayer, phase: Phase) -> Work:
    spec, config, workload = case.spec, case.config, case.workload
    kv_heads = kept_extent(spec, "kv_heads", layer.kv_heads, config.pruned)
    width = kv_heads * (spec.heads // spec.kv_heads) * layer.head_dim
    if phase == "prefill":
        queries = kept = workload.prompt_tokens
        products = attended_pairs(queries, layer.window)
    else:
        queries = 1
        kept = products = layer.tokens(workload.prompt_tokens + (workload.output_tokens + 1) // 2)
    return Work(
        part="cache",
        arithmetic=case.dense_arithmetic,
        stored_bytes=float(
            kv_copies(spec, config, workload.tensor_parallel)
            * workload.batch
            * kept
            * config.kv.block(block).stored_bytes(kv_heads, layer.head_dim, spec.dtype_bytes)
        ),
        moved_bytes=float(workload.batch * queries * 2 * width * spec.dtype_bytes),
        operations=4.0 * workload.batch * width * products,
    )
