"""The folder of a GGUF export: the file, a card, the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paretune.compressors.companions import LICENCES, copy_companions
from paretune.engines.engine import ExportCard
from paretune.engines.llama.gguf_file.file import write_gguf
from paretune.engines.llama.gguf_file.names import FILE
from paretune.engines.llama.gguf_file.tokenizer import tokenizer_notes
from paretune.engines.manifest import write_manifest
from paretune.engines.model_card import base_licence, model_card
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.files import write_whole, written_whole
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import weight_bytes

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
    licence, notes = base_licence(card.source), tokenizer_notes(card.source)
    with written_whole(folder) as partial:
        written = write_gguf(spec, bank, config, card.source, partial / FILE, name=card.name, licence=licence)
        announced = weight_bytes(spec, config)
        if written != announced:
            raise EngineError(
                f"export of {card.name}",
                f"{written} bytes of tensors were written and {announced} announced",
                "Report this: a format's container and its size disagree",
            )
        copy_companions(card.source, partial, LICENCES)
        text = model_card(spec, config, card, licence, notes, tags=("gguf", "llama.cpp"), use=_USE)
        write_whole(partial / "README.md", text)
        write_manifest(partial, spec, config, card, engine="llama.cpp", notes=notes, packages=_PACKAGES)
    return folder
