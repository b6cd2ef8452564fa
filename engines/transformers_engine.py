"""``transformers``: loads compressed-tensors, expands the weights, and computes densely."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.checkpoint.export import expanded_in_float32, export_checkpoint, generation_line
from engines.checkpoint.legality import CheckpointLegality
from engines.checkpoint.ruling import checkpoint_ruling
from engines.engine import Engine, ExportCard
from spaces.configuration import CompressionConfig
from spaces.legality import LEGAL, Legality, Ruling, illegal
from spaces.model import ModelSpec

if TYPE_CHECKING:
    import torch

    from compressors.assembly import Assembler
    from compressors.bank import Bank
    from engines.predictions import Predictions


class Transformers(Engine):
    """Saves bytes on disk and none in memory; what it computes is the reference for other engines."""

    name = "transformers"
    exact = True

    def version(self) -> str:
        """Of transformers."""
        return metadata.version("transformers")

    def available(self) -> Ruling:
        """Whether transformers is installed."""
        return LEGAL if find_spec("transformers") else illegal("transformers is not installed", self.name)

    def legality(self, device: str) -> Legality:
        """See :class:`engines.checkpoint.legality.CheckpointLegality`."""
        return CheckpointLegality(self.name, device)

    def numeric_path(self, device: str) -> str:
        """The same everywhere: weights are expanded when they are loaded."""
        del device
        return "transformers: float32 products of expanded weights; inputs rounded as the scheme says"

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """See :func:`engines.checkpoint.export.expanded_in_float32`."""
        return self.exact and expanded_in_float32(config)

    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :meth:`Engine.export_ruling`."""
        return checkpoint_ruling(spec, config)

    def export(
        self, weights: Assembler | Bank, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :meth:`Engine.export`."""
        return export_checkpoint(weights, config, folder, card)

    def predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """See :meth:`Engine.predictions`; in float32 on the CPU."""
        from engines.checkpoint.reloading import reloaded_predictions

        return reloaded_predictions(folder, ids)

    def launch_line(self, folder: Path) -> str:
        """See :func:`engines.checkpoint.export.generation_line`."""
        return generation_line(folder)
