"""Writes a candidate as a folder for ``transformers``: compressed-tensors, or plain if nothing is quantized.

Everything is written into a folder beside the target, which takes the target's name when it is complete.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.bank import Bank
from compressors.companions import copy_companions
from engines.checkpoint.layout import TRANSFORMERS, CheckpointLayout
from engines.checkpoint.quantization_config import quantization_config
from engines.checkpoint.shards import SHARD_BYTES, write_shards
from engines.checkpoint.stored_tensors import StoredTensors
from engines.engine import ExportCard
from engines.manifest import MANIFEST, write_json, write_manifest
from engines.model_card import base_licence, model_card
from engines.whole_folder import written_whole
from spaces.architectures import student_config
from spaces.configuration import CompressionConfig
from spaces.errors import EngineError
from spaces.model import ModelSpec
from spaces.size import weight_bytes

if TYPE_CHECKING:
    from compressors.assembly import Assembler

_PACKAGES = ("torch", "transformers", "compressed-tensors", "safetensors")


def write_checkpoint(
    weights: Assembler | Bank,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    shard_bytes: int = SHARD_BYTES,
    layout: CheckpointLayout = TRANSFORMERS,
) -> Path:
    """Write the candidate into ``folder`` and return it.

    Args:
        weights: a bank is enough: no model is run, and the bank need not have one in memory.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.
        shard_bytes: of a file; as much is in memory at once.
        layout: of whoever loads it.

    Raises:
        EngineError: the folder is there already and not empty, the source has no ``config.json``, the disk is
            full, or what was written is not as large as it was announced.
    """
    with written_whole(folder) as partial:
        _write(weights, config, partial, card, shard_bytes, layout)
    return folder


def _write(
    weights: Assembler | Bank,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    shard_bytes: int,
    layout: CheckpointLayout,
) -> None:
    spec = weights.spec
    bank = weights if isinstance(weights, Bank) else weights.bank
    tensors = StoredTensors(spec, bank, config, published_names=layout.published_names)
    written = write_shards(tensors, folder, shard_bytes)
    announced = weight_bytes(spec, config)
    if written != announced:
        raise EngineError(
            f"export of {card.name}",
            f"{written} bytes of tensors were written and {announced} announced",
            "Report this: a format's container and its size disagree",
        )
    values = _model_config(card.source, spec, config, layout)
    write_json(folder / "config.json", values)
    copy_companions(card.source, folder)
    notes = () if layout.cache_scheme else export_notes(config)
    licence = base_licence(card.source)
    text = model_card(spec, config, card, licence, notes)
    (folder / "README.md").write_text(text, encoding="utf-8")
    write_manifest(folder, spec, config, card, engine=layout.engine, notes=notes, packages=_PACKAGES)


def export_notes(config: CompressionConfig) -> tuple[str, ...]:
    """What a user of the checkpoint has to know: what is recorded in it but not done by ``transformers``."""
    if config.kv.num_bits == 16:
        return ()
    return (
        f"the key-value cache {config.kv.name} is recorded in {MANIFEST} and done by Paretune's own"
        " runtime; transformers keeps 16 bits",
    )


def _model_config(
    source: Path, spec: ModelSpec, config: CompressionConfig, layout: CheckpointLayout
) -> dict[str, Any]:
    try:
        values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"config.json of {source}", f"cannot be read ({error})", "Name the folder of the dense model"
        ) from error
    result = student_config(values, spec, config.student)
    quantization = quantization_config(spec, config, layout)
    if quantization is not None:
        result["quantization_config"] = quantization
    return result
