"""Which kernel runs a layer: decided from its choice and its shape alone, and said with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paretune.spaces.choice import LayerChoice

SPARSE_FROM = 0.8
"""Share of zeros from which compressed rows are not slower than dense ones (measured from 512 x 1280 on, one
thread of a Xeon with AVX-512; below it they are up to three times slower)."""


@dataclass(frozen=True)
class Selection:
    """A kernel, and what it is given.

    Attributes:
        kernel: registered name.
        note: why it is not the kernel of the format, empty where it is.
        num_bits, group_size, symmetric, sparsity: as in :class:`paretune.engines.operation.Operation`.
    """

    kernel: str
    note: str = ""
    num_bits: int = 16
    group_size: int | None = None
    symmetric: bool = True
    sparsity: float = 0.0

    @property
    def packed(self) -> bool:
        """Whether the kernel reads codes rather than dense values."""
        return self.num_bits < 16


Select = Callable[[LayerChoice, int, int], Selection]
"""From a choice, the rows ``n`` and the columns ``k`` of the weight to the kernel."""


def select_on_cpu(choice: LayerChoice, n: int, k: int) -> Selection:
    """Kernel of ``torch-cpu`` for an ``(n, k)`` weight."""
    if choice.activation is not None:
        if not rounds_inputs(choice):
            return _dense_because(f"no kernel for inputs {choice.activation.name} with {choice.weight.name}")
        return _packed("int8-dynamic", choice, k)
    if choice.weight.dense:
        return _dense(choice)
    return _weight_only(choice, n, k)


def _weight_only(choice: LayerChoice, n: int, k: int) -> Selection:
    weight = choice.weight
    if weight.number_type != "int" or weight.block_rows != 1 or weight.zero_point == "float":
        return _dense_because(f"no kernel for {weight.name}")
    if weight.num_bits == 8:
        reason = int8_refusal(k, weight.group_size)
        return _dense_because(reason) if reason else _packed("int8-weight-only", choice, k)
    if weight.num_bits == 4:
        reason = int4_refusal(n, k, weight.group_size)
        return _dense_because(reason) if reason else _packed("int4", choice, k)
    return _dense_because(f"no kernel for {weight.num_bits} bits")


def look_up_kernel(chosen: Selection) -> str:
    """``gather`` reads dense rows, ``gather-int8`` dequantizes them."""
    return "gather-int8" if chosen.kernel == "int8-weight-only" else "gather"


def rounds_inputs(choice: LayerChoice) -> bool:
    """Whether the choice is the W8A8 that has a kernel."""
    weight, activation = choice.weight, choice.activation
    return (
        activation is not None
        and activation.number_type == "int"
        and activation.strategy == "token"
        and activation.dynamic
        and weight.number_type == "int"
        and weight.num_bits == 8
        and weight.block_rows == 1
        and weight.symmetric
        and weight.group_size is None
    )


def int8_refusal(k: int, group_size: int | None) -> str:
    """Why ``torch._weight_int8pack_mm`` cannot take such groups: it reads beyond the end of others."""
    size = k if group_size is None else group_size
    return f"the int8 kernel needs groups in multiples of 32, not {size}" if size % 32 else ""


def int4_refusal(n: int, k: int, group_size: int | None) -> str:
    """Why ``torch._weight_int4pack_mm_for_cpu`` has no tiles for such a weight."""
    if n % 16:
        return f"the int4 kernel needs rows in multiples of 16, not {n}"
    size = k if group_size is None else group_size
    return f"the int4 kernel needs groups in multiples of 32, not {size}" if size % 32 else ""


def _dense_because(reason: str) -> Selection:
    return Selection("fp32", f"{reason}: runs dense")


def _packed(kernel: str, choice: LayerChoice, k: int) -> Selection:
    weight = choice.weight
    size = weight.group_size if weight.group_size != k else None
    return Selection(kernel, num_bits=weight.num_bits, group_size=size, symmetric=weight.symmetric)


def _dense(choice: LayerChoice) -> Selection:
    sparsity = choice.sparsity
    if sparsity is None:
        return Selection("fp32")
    if sparsity.pattern != "unstructured":
        return _dense_because(f"no kernel for {sparsity.pattern} zeros")
    if sparsity.fraction < SPARSE_FROM:
        share, least = f"{sparsity.fraction:.0%}", f"{SPARSE_FROM:.0%}"
        return Selection("fp32", f"{share} zeros run dense: compressed rows pay from {least}")
    return Selection("csr", sparsity=sparsity.fraction)
