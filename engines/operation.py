"""What a candidate makes an engine do: matrix products, attention and look-ups, with shapes and kernels.

The unit of the cost tables: operations that differ in nothing but ``count`` take the same time, so a table is
keyed by :attr:`Operation.key`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Kind = Literal["linear", "attention", "embedding"]
Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as one kernel runs it, ``count`` times in a phase (a whole prompt, or one output token).

    Attributes:
        kind: what is computed.
        phase: ``prefill`` (all prompts of the batch) or ``decode`` (one more token of every sequence).
        kernel: name of the kernel that runs it, e.g. ``fp32``, ``int4``; not what is stored.
        m, n, k: a linear maps ``(m, k)`` to ``(m, n)``; attention has ``m`` query tokens a sequence, ``n``
            cached tokens and heads of width ``k``; an embedding looks up ``m`` rows of ``k`` among ``n``.
        count: how often.
        num_bits, group_size, symmetric: of the weights that the kernel is given (of the cache for attention).
        sparsity: share of zeros that the kernel makes use of.
        batch, heads, kv_heads: of attention.
        note: why the kernel is not the one that the format's name suggests; plays no part in :attr:`key`.
    """

    kind: Kind
    phase: Phase
    kernel: str
    m: int
    n: int
    k: int
    count: int = 1
    num_bits: int = 16
    group_size: int | None = None
    symmetric: bool = True
    sparsity: float = 0.0
    batch: int = 1
    heads: int = 0
    kv_heads: int = 0
    note: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything that decides how long one run takes."""
        return (
            self.kind,
            self.kernel,
            self.m,
            self.n,
            self.k,
            self.num_bits,
            self.group_size,
            self.symmetric,
            self.sparsity,
            self.batch,
            self.heads,
            self.kv_heads,
        )

    @property
    def arithmetic(self) -> str:
        """Of its products, as data sheets name it; kernels that expand their weights multiply as dense ones do."""
        return {"int8-dynamic": "int8"}.get(self.kernel, self.kernel)

    @property
    def moved_bytes(self) -> float:
        """Weights or cache in the bits that the kernel is given, inputs and outputs in float32."""
        bits = 32 if self.num_bits == 16 and self.kernel == "fp32" else self.num_bits
        if self.kind == "linear":
            return self.n * self.k * bits / 8 * (1.0 - self.sparsity) + 4 * self.m * (self.n + self.k)
        if self.kind == "attention":
            cache = self.batch * self.n * self.kv_heads * self.k * 2 * bits / 8
            return cache + self.batch * self.m * self.heads * self.k * 8
        return self.m * self.k * (bits / 8 + 4)

    @property
    def multiplications(self) -> float:
        """Multiplications and additions."""
        if self.kind == "linear":
            return 2.0 * self.m * self.n * self.k * (1.0 - self.sparsity)
        return 4.0 * self.batch * self.heads * self.k * self.m * self.n if self.kind == "attention" else 0.0

    def times(self, count: int) -> Operation:
        """The same operation, run ``count`` times."""
        return replace(self, count=count)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for tables on disk."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Operation:
        """The operation that :meth:`to_dict` wrote; unknown names are errors."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown fields of an operation: {', '.join(sorted(unknown))}")
        return cls(**values)


def merged(operations: list[Operation]) -> tuple[Operation, ...]:
    """Operations of the same phase and key put together, counts added, in order of first appearance."""
    found: dict[tuple[Any, ...], Operation] = {}
    for operation in operations:
        key = (operation.phase, *operation.key)
        known = found.get(key)
        found[key] = operation if known is None else known.times(known.count + operation.count)
    return tuple(found.values())
