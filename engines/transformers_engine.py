"""``transformers``: loads checkpoints of several forms, and computes densely or as the loader of the form does."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.export import generation_line
from paretune.engines.checkpoint.legality import CheckpointLegality
from paretune.engines.engine import Engine, ExportCard
from paretune.engines.environments import Environment
from paretune.engines.forms import DEFAULT_FORM, find_form
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import Legality, Ruling
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider


class Transformers(Engine):
    """Saves bytes on disk and none in memory; what it computes is the reference for other engines.

    Args:
        form: of its exports, by name. A search knows the usual one; the others are for its results.
    """

    name = "transformers"
    exact = True
    loader = "transformers"
    rounds_experts = True
    """``DecompressExperts`` of transformers 5.17 expands them before the checkpoint is cast to what is asked for."""

    def __init__(self, form: str = DEFAULT_FORM) -> None:
        self.form = find_form(form)
        self.form_name = "" if form == DEFAULT_FORM else form

    def version(self) -> str:
        """Of transformers."""
        return metadata.version("transformers")

    def available(self) -> Ruling:
        """Whether transformers is installed, and whoever loads the form."""
        return self.form.available()

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.checkpoint.legality.CheckpointLegality`."""
        return CheckpointLegality(self.name, device)

    def numeric_path(self, device: str) -> str:
        """The same everywhere for the usual form, whose weights are expanded when they are loaded."""
        del device
        return f"transformers: {self.form.numeric_path}"

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """See :meth:`paretune.engines.forms.form.Form.computes_in_float32`."""
        return self.exact and self.form.computes_in_float32(config)

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """See :meth:`paretune.engines.forms.form.Form.stored`."""
        return self.form.stored(spec)

    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :meth:`Engine.export_ruling`."""
        return self.form.ruling(spec, config)

    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :meth:`Engine.export`."""
        return self.form.export(weights, config, folder, card)

    def environment(self) -> Environment:
        """See :meth:`paretune.engines.forms.form.Form.environment`."""
        return self.form.environment()

    def launch_line(self, folder: Path) -> str:
        """See :func:`paretune.engines.checkpoint.export.generation_line`."""
        return generation_line(folder)
