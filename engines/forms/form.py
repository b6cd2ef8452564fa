"""A form of checkpoint: what it can hold, how it is written, and who loads it; the usual one is compressed-tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.export import checkpoint_environment, expanded_in_float32
from paretune.engines.checkpoint.legality import checkpoint_ruling
from paretune.engines.engine import ExportCard
from paretune.engines.environments import Environment
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider


class Form(ABC):
    """A container, and whoever ``transformers`` asks to load it.

    Attributes:
        name: registered name, the same in every file.
        numeric_path: how the weights are multiplied once they are loaded, in words.
        remedy: what to do about a candidate that does not fit.
    """

    name: str
    numeric_path: str
    remedy: str = "Choose other formats, or another form"

    @abstractmethod
    def ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether the form holds the candidate; else the first layer that is in the way, the rule and its source."""

    @abstractmethod
    def available(self) -> Ruling:
        """Whether such a checkpoint can be loaded on this machine, and what to install."""

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """The model as the form stores it: bytes of quantized weights differ by container."""
        return spec

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """Whether products are those of float32, as those of the searched candidate are on a CPU."""
        del config
        return False

    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """Write the candidate into ``folder``, whole or not at all; returns it. No model is run.

        Raises:
            EngineError: the form cannot hold the candidate (then nothing was written), or as
                :func:`paretune.engines.checkpoint.writer.write_tensors`.
        """
        verdict = self.ruling(weights.spec, config)
        if not verdict:
            raise EngineError(
                f"export of {card.name} as {self.name}", f"{verdict.reason} ({verdict.source})", self.remedy
            )
        return self.write(weights, config, folder, card)

    @abstractmethod
    def write(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """:meth:`export` of a candidate that :meth:`ruling` accepts."""

    @abstractmethod
    def environment(self) -> Environment:
        """The interpreter that has ``transformers`` and what it asks to load the form.

        Raises:
            EngineError: there is none.
        """


class CompressedTensors(Form):
    """See :mod:`paretune.engines.checkpoint`; the package is one that we need ourselves."""

    name = "compressed-tensors"
    numeric_path = (
        "float32 products of expanded weights (experts: expanded in the model's dtype); inputs rounded as the scheme"
        " says"
    )
    remedy = "Choose other formats, another form, or another engine"

    def ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :func:`paretune.engines.checkpoint.legality.checkpoint_ruling`."""
        return checkpoint_ruling(spec, config)

    def available(self) -> Ruling:
        """Whether transformers is installed."""
        return LEGAL if find_spec("transformers") else illegal("transformers is not installed", self.name)

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """See :func:`paretune.engines.checkpoint.export.expanded_in_float32`."""
        return expanded_in_float32(config)

    def write(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :func:`paretune.engines.checkpoint.writer.write_checkpoint`."""
        from paretune.engines.checkpoint.writer import write_checkpoint

        return write_checkpoint(weights, config, folder, card)

    def environment(self) -> Environment:
        """See :func:`paretune.engines.checkpoint.export.checkpoint_environment`."""
        return checkpoint_environment()
