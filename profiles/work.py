"""How much work a model is: bytes that must move and operations that must be done, by phase.

Counted from stored bytes and from what a model computes alone (``engines/workload_operations.py``; Williams et al.
2009, "Roofline"; for language models: Pope et al. 2022, arXiv:2211.05102). A multiply-add is two
operations. Attention is counted as one fused kernel that reads keys and values once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from paretune.engines.operation import Phase
from paretune.engines.workload_operations import AttentionCall, LayerCall, model_calls
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.groups import fused_groups
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import fixed_bytes, kv_copies, layer_bytes
from paretune.spaces.target import Device, Workload

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
    spec = case.spec
    for call in model_calls(spec, case.config, case.workload, phase):
        if isinstance(call, AttentionCall):
            yield _attention(case, call)
        else:
            yield _look_up(case, call) if call.linear.role == "embedding" else _product(case, call)
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


def sparse_2_4_share(num_bits: int) -> float:
    """Share of its bytes that a matrix keeps in 2:4: half of the values, two bits of index for each."""
    return 0.5 + 1 / num_bits


def _look_up(case: Case, call: LayerCall) -> Work:
    embedding = call.linear
    rows = layer_bytes(case.spec, embedding, case.config).payload / embedding.out_features * call.tokens
    written = call.tokens * embedding.in_features * case.spec.dtype_bytes
    return Work("weights", case.dense_arithmetic, rows, float(written), 0.0)


def _product(case: Case, call: LayerCall) -> Work:
    spec, config = case.spec, case.config
    stored = float(layer_bytes(spec, spec.linear(call.layer), config).payload)
    if call.linear.experts > 1:
        stored *= call.experts / call.linear.experts
    operations = call.multiplications
    choice = config.choice(call.layer)
    if case.sparse_2_4 and choice.sparsity is not None and choice.sparsity.pattern == "2:4":
        stored, operations = stored * sparse_2_4_share(choice.weight.num_bits), operations / 2
    moved = float(call.tokens * (call.rows + call.columns) * spec.dtype_bytes)
    if call.linear.out_axis == "kv_heads":
        copies = kv_copies(spec, config, case.workload.tensor_parallel)
        stored, operations = copies * stored, copies * operations
    return Work("weights", case.arithmetic(call.layer), stored, moved, operations)


def _attention(case: Case, call: AttentionCall) -> Work:
    """Masked pairs are skipped."""
    spec, config, workload = case.spec, case.config, case.workload
    width = call.heads * call.width
    return Work(
        part="cache",
        arithmetic=case.dense_arithmetic,
        stored_bytes=float(
            kv_copies(spec, config, workload.tensor_parallel)
            * workload.batch
            * call.seen
            * config.kv.block(call.block).stored_bytes(call.kv_heads, call.width, spec.dtype_bytes)
        ),
        moved_bytes=float(workload.batch * call.queries * 2 * width * spec.dtype_bytes),
        operations=4.0 * workload.batch * width * call.pairs,
    )
