"""Engines whose operations can be called one by one, so that cost is profiled and predicted before a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paretune.engines.engine import Engine
from paretune.engines.operation import Operation
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    import torch

    from paretune.compressors.assembly import Assembler

Kernel = Callable[[], object]
"""Runs one operation once, on the next of several sets of operands, and waits until it is done."""


@dataclass(frozen=True)
class Timing:
    """What a runtime took, medians over repetitions.

    Attributes:
        ttft_s: from the prompt to the first token, in seconds.
        tpot_s: each further token of all sequences of the batch, in seconds.
        ttft_spread_s, tpot_spread_s: half the distance between the quartiles.
        repetitions: how many were timed.
    """

    ttft_s: float
    tpot_s: float
    ttft_spread_s: float
    tpot_spread_s: float
    repetitions: int


class Runtime(ABC):
    """A candidate as the engine runs it.

    It shares tensors with the assembler's model: use it before the assembler is told to apply another one.
    """

    kernels: Mapping[str, str]
    """Kernel of every layer."""

    @abstractmethod
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``(sequences, tokens, vocabulary)`` of int64 ids ``(sequences, tokens)``."""

    @abstractmethod
    def generate(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """Greedy continuation: ids ``(sequences, tokens + new_tokens)``; stops at no token."""

    @abstractmethod
    def time(self, workload: Workload, repetitions: int = 5) -> Timing:
        """Generate at ``workload`` so often (after a warm-up) and take the time."""


class ProfiledEngine(Engine):
    """An engine of which cost tables can be made; see :mod:`paretune.profiles.harness`."""

    @property
    def profiled(self) -> ProfiledEngine:
        """See :attr:`Engine.profiled`."""
        return self

    @abstractmethod
    def operations(
        self, spec: ModelSpec, config: CompressionConfig, workload: Workload
    ) -> tuple[Operation, ...]:
        """Everything that costs time in prefill and in one step of decoding, equal operations merged."""

    @abstractmethod
    def kernel(self, operation: Operation, working_set_bytes: int) -> Kernel:
        """A callable that runs ``operation`` once.

        Its operands rotate through buffers of ``working_set_bytes`` in all, so that the processor's cache
        holds as much of them as it does in a model of that size.

        Raises:
            EngineError: an operation of another engine.
        """

    @abstractmethod
    def runtime(self, assembler: Assembler, config: CompressionConfig, device: str = "cpu") -> Runtime:
        """The candidate, ready to generate.

        Raises:
            EngineError: the engine does not run on this machine or device.
        """
