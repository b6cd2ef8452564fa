"""Which kernel a layer gets on a CPU, and what is said when it is not the one of its format."""

from __future__ import annotations

import pytest

from paretune.engines.kernels import find_kernel
from paretune.engines.selection import SPARSE_FROM, select_on_cpu
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.named_formats import find_choice
from tests.engines.conftest import choice


@pytest.mark.parametrize(
    ("wanted", "kernel", "note"),
    [
        (choice(16), "fp32", ""),
        (choice(8), "int8-weight-only", ""),
        (choice(8, None), "int8-weight-only", ""),
        (choice(8, symmetric=False), "int8-weight-only", ""),
        (choice(4), "int4", ""),
        (choice(4, None, symmetric=False), "int4", ""),
        (choice(8, None, a8=True), "int8-dynamic", ""),
        (choice(2), "fp32", "no kernel for 2 bits: runs dense"),
        (choice(6), "fp32", "no kernel for 6 bits: runs dense"),
        (choice(16, sparsity=0.9), "csr", ""),
        (choice(16, sparsity=0.5), "fp32", "50% zeros run dense: compressed rows pay from 80%"),
        (choice(4, sparsity=0.9), "int4", ""),
        (
            LayerChoice(sparsity=Sparsity(fraction=0.5, pattern="2:4")),
            "fp32",
            "no kernel for 2:4 zeros: runs dense",
        ),
    ],
)
def test_the_kernel_of_a_choice(wanted, kernel, note):
    found = select_on_cpu(wanted, 64, 128)
    assert (found.kernel, found.note) == (kernel, note)
    assert found.packed == (kernel.startswith("int"))
    if found.packed:
        assert found.num_bits == wanted.weight.num_bits
        assert found.symmetric == wanted.weight.symmetric


@pytest.mark.parametrize(
    ("wanted", "n", "k"), [(choice(4), 100, 128), (choice(8, None), 64, 100), (choice(4, None), 64, 48)]
)
def test_shapes_without_tiles_run_dense(wanted, n, k):
    found = select_on_cpu(wanted, n, k)
    assert found.kernel == "fp32"
    assert "multiples" in found.note
    assert "runs dense" in found.note
    assert find_kernel("int4" if wanted.weight.num_bits == 4 else "int8-weight-only").refusal(
        n, k, wanted.weight.group_size
    )


@pytest.mark.parametrize(
    "found", [choice(4, None, a8=True), find_choice("fp8-dynamic"), find_choice("nvfp4")]
)
def test_what_has_no_kernel_runs_dense_and_says_so(found):
    chosen = select_on_cpu(found, 64, 128)
    assert chosen.kernel == "fp32"
    assert found.weight.name in chosen.note
    assert "runs dense" in chosen.note


def test_a_group_as_long_as_the_row_is_a_channel():
    assert select_on_cpu(choice(8, 128), 64, 128) == select_on_cpu(choice(8, None), 64, 128)


def test_compressed_rows_start_where_the_constant_says():
    at = LayerChoice(sparsity=Sparsity(fraction=SPARSE_FROM))
    below = LayerChoice(sparsity=Sparsity(fraction=SPARSE_FROM - 0.01))
    assert select_on_cpu(at, 64, 64).kernel == "csr"
    assert select_on_cpu(at, 64, 64).sparsity == SPARSE_FROM
    assert select_on_cpu(below, 64, 64).kernel == "fp32"
