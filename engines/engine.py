"""The small interface behind which every engine stands, and the values that it hands out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.operation import Operation
from spaces.configuration import CompressionConfig
from spaces.legality import Legality, Ruling
from spaces.model import ModelSpec
from spaces.target import Workload

if TYPE_CHECKING:
    import torch

    from compressors.assembly import Assembler

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


@dataclass(frozen=True)
class ExportCard:
    """What an export says about itself besides its configuration.

    Attributes:
        source: folder of the dense checkpoint: tokenizer, ``config.json`` and licence are taken from it.
        name: of the candidate, e.g. ``uniform-4``.
        run: provenance: run folder, hashes of model, bank and texts, seed, versions.
        figures: measured and predicted values by column name.
    """

    source: Path
    name: str = "candidate"
    run: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)


class Runtime(ABC):
    """A candidate as the engine runs it.

    It shares tensors with the assembler's model: use it before the assembler is told to apply another one.
    """

    kernels: Mapping[str, str]
    """Kernel of every site."""

    @abstractmethod
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``(sequences, tokens, vocabulary)`` of int64 ids ``(sequences, tokens)``."""

    @abstractmethod
    def generate(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """Greedy continuation: ids ``(sequences, tokens + new_tokens)``; stops at no token."""

    @abstractmethod
    def time(self, workload: Workload, repetitions: int = 5) -> Timing:
        """Generate at ``workload`` so often (after a warm-up) and take the time."""


class Engine(ABC):
    """A program that runs compressed models on devices of some kind.

    Attributes:
        name: registered name, the same in every file.
    """

    name: str

    @abstractmethod
    def version(self) -> str:
        """Of the engine's package."""

    @abstractmethod
    def available(self) -> Ruling:
        """Whether it runs on this machine, and why not."""

    @abstractmethod
    def legality(self, device: str) -> Legality:
        """What it accepts on the device of this name."""

    @abstractmethod
    def numeric_path(self, device: str) -> str:
        """The formats as it executes them there: what a score is valid for."""

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

    @abstractmethod
    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether :meth:`export` can write the candidate."""

    @abstractmethod
    def export(self, assembler: Assembler, config: CompressionConfig, folder: Path, card: ExportCard) -> Path:
        """Write the checkpoint that the engine loads into ``folder``, whole or not at all; returns it.

        Raises:
            EngineError: the format cannot express the candidate, or the folder is not empty.
        """

    @abstractmethod
    def token_logits(self, folder: Path, ids: torch.Tensor) -> torch.Tensor:
        """Float32 logits of an export, computed by a fresh process: see :meth:`Runtime.logits`.

        Raises:
            EngineError: the engine cannot load the folder.
        """

    @abstractmethod
    def launch_line(self, folder: Path) -> str:
        """One line for a shell that runs the export."""
