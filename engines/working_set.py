"""Callables that run one operation on operands as cold as they are in a model of a given size.

Each call takes the next of several copies of what the kernel reads. Together the copies are as large as the
model, so the processor's cache holds the share of them that it holds of the model while it decodes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.engines.kernels import LayerWeight, find_kernel
from paretune.engines.kernels.int8_weight_only import Int8WeightOnlyKernel
from paretune.engines.operation import Operation
from paretune.engines.profiled_engine import Kernel
from paretune.engines.runtime.attention_kernels import ATTENTION_KERNELS
from paretune.engines.runtime.static_cache import stores

MOST_BYTES = 1 << 29
"""Of all copies: several times what any processor caches for one core."""
_MOST_COPIES = 4096


class RotatingKernel:
    """Calls ``run`` with one set of operands after the other.

    Args:
        run: what is timed.
        make: a set of operands.
        working_set_bytes: of all sets together.
        wait: blocks until the device is done.
    """

    def __init__(
        self,
        run: Callable[[dict[str, torch.Tensor]], object],
        make: Callable[[], dict[str, torch.Tensor]],
        working_set_bytes: int,
        wait: Callable[[], None],
    ) -> None:
        first = make()
        size = sum(_stored_bytes(tensor) for tensor in first.values())
        wanted = min(working_set_bytes, MOST_BYTES) // max(1, size)
        copies = max(1, min(_MOST_COPIES, wanted))
        self.sets = [first]
        self.sets += [{name: t.clone() for name, t in first.items()} for _ in range(copies - 1)]
        self.nbytes = size * copies
        self._run = run
        self._wait = wait
        self._turn = 0

    def __call__(self) -> None:
        """Run once."""
        operands = self.sets[self._turn]
        self._turn = (self._turn + 1) % len(self.sets)
        with torch.inference_mode():
            self._run(operands)
        self._wait()


def build_kernel(
    operation: Operation, working_set_bytes: int, device: torch.device, dtype: torch.dtype
) -> Kernel:
    """The callable for one operation on random operands."""
    builders = {"linear": _linear, "embedding": _embedding, "attention": _attention}
    run, make = builders[operation.kind](operation, device, dtype)
    return RotatingKernel(run, make, working_set_bytes, _waiter(device))


_Parts = tuple[Callable[[dict[str, torch.Tensor]], object], Callable[[], dict[str, torch.Tensor]]]


def _linear(operation: Operation, device: torch.device, dtype: torch.dtype) -> _Parts:
    kernel = find_kernel(operation.kernel)
    inputs = torch.randn(operation.m, operation.k).to(device, dtype)

    def make() -> dict[str, torch.Tensor]:
        return {name: tensor.to(device) for name, tensor in kernel.pack(_weight(operation)).items()}

    return lambda operands: kernel.run(inputs, operands), make


def _embedding(operation: Operation, device: torch.device, dtype: torch.dtype) -> _Parts:
    ids = torch.randint(operation.n, (operation.m,)).to(device)
    if operation.kernel == "gather-int8":
        kernel = find_kernel("int8-weight-only")
        return lambda operands: Int8WeightOnlyKernel.rows(ids, operands), lambda: kernel.pack(
            _weight(operation)
        )

    def make() -> dict[str, torch.Tensor]:
        return {"weight": torch.randn(operation.n, operation.k).to(device, dtype)}

    return lambda operands: torch.nn.functional.embedding(ids, operands["weight"]), make


def _attention(operation: Operation, device: torch.device, dtype: torch.dtype) -> _Parts:
    """Reading the cache (dequantizing it where it is narrow) and the attention itself."""
    query = torch.randn(operation.batch, operation.heads, operation.m, operation.k).to(device, dtype)
    states = torch.randn(operation.batch, operation.kv_heads, operation.n, operation.k).to(device, dtype)
    causal = operation.m > 1

    kv = ATTENTION_KERNELS[operation.kernel]
    keys, values = stores(kv, states, states, operation.n, torch.bfloat16)

    def make() -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, kept in (("keys", keys), ("values", values)):
            kept.write(0, states)
            found |= {f"{name}.{k}": v.clone() for k, v in vars(kept).items() if isinstance(v, torch.Tensor)}
        return found

    def run(operands: dict[str, torch.Tensor]) -> object:
        read = []
        for name, kept in (("keys", keys), ("values", values)):
            for attribute in [key for key in operands if key.startswith(name)]:
                setattr(kept, attribute.partition(".")[2], operands[attribute])
            read.append(kept.read(0, operation.n))
        return torch.nn.functional.scaled_dot_product_attention(
            query, read[0], read[1], is_causal=causal, enable_gqa=operation.heads != operation.kv_heads
        )

    return run, make


def _weight(operation: Operation) -> LayerWeight:
    """Random weights of the operation's format."""
    n, k = operation.n, operation.k
    if operation.num_bits == 16:
        dense = torch.randn(n, k)
        if operation.sparsity:
            dense *= torch.rand(n, k) >= operation.sparsity
        return LayerWeight(dense=dense)
    half, size = 1 << (operation.num_bits - 1), operation.group_size or k
    codes = torch.randint(-half, half, (n, k), dtype=torch.int8)
    scales = (0.5 + torch.rand(n, k // size)).to(torch.bfloat16)
    zeros = None if operation.symmetric else torch.randint(-half, half, (n, k // size), dtype=torch.int8)
    return LayerWeight(quantized=QuantizedWeight(codes, scales, zeros, size))


def _stored_bytes(tensor: torch.Tensor) -> int:
    if tensor.layout == torch.sparse_csr:
        parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
        return sum(part.nbytes for part in parts)
    return tensor.nbytes


def _waiter(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
