"""The usual form: compressed-tensors, or a plain checkpoint where nothing is quantized."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.export import checkpoint_environment, expanded_in_float32
from paretune.engines.checkpoint.ruling import checkpoint_ruling
from paretune.engines.engine import ExportCard
from paretune.engines.environments import Environment
from paretune.engines.forms.form import Form
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank


class CompressedTensors(Form):
    """See :mod:`paretune.engines.checkpoint`; the package is one that we need ourselves."""

    name = "compressed-tensors"
    numeric_path = (
        "float32 products of expanded weights (experts: expanded in the model's dtype); inputs rounded as the scheme"
        " says"
    )
    remedy = "Choose other formats, another form, or another engine"

    def ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :func:`paretune.engines.checkpoint.ruling.checkpoint_ruling`."""
        return checkpoint_ruling(spec, config)

    def available(self) -> Ruling:
        """Whether transformers is installed."""
        return LEGAL if find_spec("transformers") else illegal("transformers is not installed", self.name)

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """See :func:`paretune.engines.checkpoint.export.expanded_in_float32`."""
        return expanded_in_float32(config)

    def write(
        self, weights: Assembler | Bank, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :func:`paretune.engines.checkpoint.writer.write_checkpoint`."""
        from paretune.engines.checkpoint.writer import write_checkpoint

        return write_checkpoint(weights, config, folder, card)

    def environment(self) -> Environment:
        """See :func:`paretune.engines.checkpoint.export.checkpoint_environment`."""
        return checkpoint_environment()
