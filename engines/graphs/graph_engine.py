"""Engines whose export is a graph of operations with a cache: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.engine import Engine, ExportCard, require_exportable
from paretune.engines.environments import find_environment, variable
from paretune.engines.graphs.legality import GraphLegality, model_ruling
from paretune.engines.group_ruling import ruling_by_group
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Legality, Ruling, illegal
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider


class GraphEngine(Engine):
    """Computes in float32: weights are expanded block by block, what is bfloat16 in the file when it is loaded.

    Attributes:
        writers: packages that must be importable here to write an export.
        extra: of our distribution, which installs all of it.
        options: of the program, by its own names.
        file: that the program loads.
        tags: of an export; the first two are its formats.
        use: lines of its card that show how it is run.
        packages: whose versions it records.
    """

    exact = True
    loader = "graphs"
    times_exports = True
    device_kind = "cpu"
    writers: tuple[str, ...]
    extra: str
    options: Mapping[str, str] = {}
    file: str
    tags: tuple[str, ...]
    use: tuple[str, ...]
    packages: tuple[str, ...]

    def finish(self, folder: Path) -> None:
        """Turn the ONNX file of a folder into :attr:`file`, where that is another."""

    def available(self) -> Ruling:
        """Whether an interpreter with the engine is known, and what writes the graph is here."""
        try:
            found = find_environment(self.name)
        except EngineError as error:
            return illegal(str(error), self.name)
        missing = [name for name in self.writers if find_spec(name) is None]
        if found is None or missing:
            return illegal(f"{', '.join(missing) or self.name} not installed: {self.install}", self.name)
        return LEGAL

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.graphs.legality.GraphLegality`."""
        return GraphLegality(self.name, device)

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """Integers lie as the graph's operations take them."""
        return spec.model_copy(update={"fixed_dtype_bytes": None, "container": "graph"})

    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :meth:`Engine.export_ruling`."""
        verdict = model_ruling(spec)
        return verdict and ruling_by_group(self.legality("cpu"), spec, config)

    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :meth:`Engine.export`."""
        from paretune.compressors.assembly import Assembler
        from paretune.engines.export_folder import ExportKind
        from paretune.engines.graphs.export import write_graph_folder

        bank = weights.bank if isinstance(weights, Assembler) else weights
        require_exportable(self.export_ruling(weights.spec, config), card)
        kind = ExportKind(self.name, self.tags, self.packages, use=self.use)
        return write_graph_folder(self.stored(weights.spec), bank, config, folder, card, kind, self.finish)

    def job(self, folder: Path, *, served: bool) -> dict[str, Any]:
        """The graph, and the program's options."""
        del served
        return {"model": str(folder / self.file), "options": dict(self.options)}

    @property
    def install(self) -> str:
        """The extra that has it, or an interpreter of its own."""
        return f"pip install 'paretune[{self.extra}]', or name an interpreter that has it in {variable(self.name)}"
