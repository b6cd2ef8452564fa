"""Timed kernels rotate through as much memory as the model has."""

from __future__ import annotations

import pytest
import torch

from paretune.engines import find_engine
from paretune.engines.operation import Operation
from paretune.engines.working_set import MOST_BYTES, RotatingKernel

ENGINE = find_engine("torch-cpu")
OPERATIONS = [
    Operation("linear", "decode", "fp32", 2, 64, 128),
    Operation("linear", "decode", "bf16", 2, 64, 128),
    Operation("linear", "decode", "int4", 2, 64, 128, num_bits=4, group_size=32, symmetric=False),
    Operation("linear", "decode", "int8-weight-only", 2, 64, 128, num_bits=8, group_size=64),
    Operation("linear", "decode", "int8-dynamic", 2, 64, 128, num_bits=8),
    Operation("linear", "decode", "csr", 1, 64, 128, sparsity=0.9),
    Operation("embedding", "decode", "gather", 2, 256, 128),
    Operation("embedding", "decode", "gather-int8", 2, 256, 128, num_bits=8, group_size=32),
    Operation("attention", "decode", "sdpa", 1, 33, 32, batch=2, heads=4, kv_heads=2),
    Operation("attention", "prefill", "sdpa-kv8", 33, 33, 32, num_bits=8, batch=2, heads=4, kv_heads=4),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.kind}-{o.kernel}")
def test_copies_fill_the_working_set(operation):
    small, large = ENGINE.kernel(operation, 1), ENGINE.kernel(operation, 3_000_000)
    assert len(small.sets) == 1
    assert len(large.sets) > 1
    # Its own copies: random zeros make a sparse operand of another kernel a little larger or smaller.
    assert large.nbytes <= 3_000_000 < large.nbytes + large.nbytes / len(large.sets)
    for _ in range(3):
        large()


def test_a_mixture_of_formats_takes_the_bytes_of_its_format():
    sizes = {o.kernel: ENGINE.kernel(o, 1).nbytes for o in OPERATIONS if o.kind == "linear"}
    weights = 64 * 128
    assert sizes["fp32"] == 4 * weights
    assert sizes["bf16"] == 2 * weights
    assert sizes["int8-dynamic"] == weights + 64 * 4
    assert sizes["int8-weight-only"] == weights + 64 * 2 * 2
    assert sizes["int4"] == weights // 2 + 64 * 4 * 2 * 2
    assert sizes["csr"] < 0.2 * 8 * weights + 65 * 4


def test_every_call_takes_the_next_copy():
    seen = []
    kernel = RotatingKernel(
        lambda operands: seen.append(operands["x"].data_ptr()),
        lambda: {"x": torch.ones(10)},
        120,
        lambda: None,
    )
    for _ in range(6):
        kernel()
    assert len(set(seen[:3])) == 3
    assert seen[:3] == seen[3:]


def test_no_model_is_so_large_that_timing_fills_the_memory():
    kernel = ENGINE.kernel(Operation("linear", "decode", "fp32", 1, 2048, 2048), 10**12)
    assert kernel.nbytes <= MOST_BYTES
