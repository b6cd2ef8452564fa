"""The folder of a GGUF export: the file, a card, the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paretune.compressors.companions import LICENCES
from paretune.engines.engine import ExportCard
from paretune.engines.export_folder import ExportKind, base_licence, write_export
from paretune.engines.llama.gguf_file.conversion import tokenizer_notes
from paretune.engines.llama.gguf_file.file import write_gguf
from paretune.engines.llama.gguf_file.names import FILE
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider

_PACKAGES = ("gguf", "libggml-python", "torch")
_USE = ("```sh", f"llama-server --host 127.0.0.1 --model {FILE}", "```")


def write_folder(
    spec: ModelSpec, bank: WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
) -> Path:
    """Write the candidate into ``folder``, whole or not at all, and return it.

    Args:
        spec: of the dense model as GGUF stores it.
        bank: with the weights.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.

    Raises:
        EngineError: the folder is not empty, the disk is full, or llama.cpp would read the model otherwise.
    """
    notes = tokenizer_notes(card.source)
    kind = ExportKind("llama.cpp", ("gguf", "llama.cpp"), _PACKAGES, notes=notes, use=_USE)

    def write(partial: Path) -> int:
        licence = base_licence(card.source)
        return write_gguf(spec, bank, config, card.source, partial / FILE, name=card.name, licence=licence)

    return write_export(kind, spec, config, folder, card, write, LICENCES)
