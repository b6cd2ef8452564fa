"""Writes a candidate as a folder for ``transformers``: compressed-tensors, or plain if nothing is quantized.

Everything is written into a folder beside the target, which takes the target's name when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.bank import Bank
from compressors.companions import copy_companions
from engines.engine import ExportCard
from engines.model_card import base_licence, model_card
from engines.quantization_config import quantization_config
from engines.shards import SHARD_BYTES, write_shards
from engines.stored_tensors import StoredTensors
from spaces.architectures import student_config
from spaces.configuration import CompressionConfig
from spaces.errors import EngineError
from spaces.model import ModelSpec
from spaces.size import average_bits, weight_bytes

if TYPE_CHECKING:
    from compressors.assembly import Assembler

MANIFEST = "paretune.json"
SCHEMA_VERSION = 1
_CHUNK_BYTES = 1 << 22


def write_checkpoint(
    weights: Assembler | Bank,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the candidate into ``folder`` and return it.

    Args:
        weights: a bank is enough: no model is run, and the bank need not have one in memory.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.
        shard_bytes: of a file; as much is in memory at once.

    Raises:
        EngineError: the folder is there already and not empty, the source has no ``config.json``, the disk is
            full, or what was written is not as large as it was announced.
    """
    refuse_occupied(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        _write(weights, config, partial, card, shard_bytes)
        partial.chmod(0o755)
        partial.replace(folder)
    except OSError as error:
        raise EngineError(
            f"export to {folder}",
            f"cannot be written ({error.strerror or error})",
            "Free space or name another folder",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(
    weights: Assembler | Bank, config: CompressionConfig, folder: Path, card: ExportCard, shard_bytes: int
) -> None:
    spec = weights.spec
    bank = weights if isinstance(weights, Bank) else weights.bank
    written = write_shards(StoredTensors(spec, bank, config), folder, shard_bytes)
    announced = weight_bytes(spec, config)
    if written != announced:
        raise EngineError(
            f"export of {card.name}",
            f"{written} bytes of tensors were written and {announced} announced",
            "Report this: a format's container and its size disagree",
        )
    values = _model_config(card.source, spec, config)
    _write_json(folder / "config.json", values)
    copy_companions(card.source, folder)
    notes = export_notes(config)
    licence = base_licence(card.source)
    text = model_card(spec, config, card, licence, notes)
    (folder / "README.md").write_text(text, encoding="utf-8")
    _write_json(folder / MANIFEST, _manifest(spec, config, card, licence, folder))


def export_notes(config: CompressionConfig) -> tuple[str, ...]:
    """What a user of the checkpoint has to know: what is recorded in it but not done by ``transformers``."""
    if config.kv.num_bits == 16:
        return ()
    return (
        f"the key-value cache {config.kv.name} is recorded in {MANIFEST} and done by Paretune's own"
        " runtime; transformers keeps 16 bits",
    )


def _model_config(source: Path, spec: ModelSpec, config: CompressionConfig) -> dict[str, Any]:
    try:
        values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"config.json of {source}", f"cannot be read ({error})", "Name the folder of the dense model"
        ) from error
    result = student_config(values, spec, config.student)
    quantization = quantization_config(spec, config)
    if quantization is not None:
        result["quantization_config"] = quantization
    return result


def _manifest(
    spec: ModelSpec, config: CompressionConfig, card: ExportCard, licence: str | None, folder: Path
) -> dict[str, Any]:
    versions = {
        name: metadata.version(name)
        for name in ("torch", "transformers", "compressed-tensors", "safetensors")
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "name": card.name,
        "digest": config.digest,
        "config": config.model_dump(mode="json"),
        "weight_bytes": weight_bytes(spec, config),
        "average_bits": average_bits(spec, config),
        "base": {"architecture": spec.architecture, "dtype": spec.dtype, "licence": licence},
        "notes": list(export_notes(config)),
        "run": dict(card.run),
        "figures": dict(card.figures),
        "versions": versions,
        "files": {file.name: sha256_of_file(file) for file in sorted(folder.iterdir())},
    }


def sha256_of_file(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def refuse_occupied(folder: Path) -> None:
    """Refuse to write where something is.

    Raises:
        EngineError: it is a file, or a folder that is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise EngineError(
            f"export folder {folder}", "is there already and not empty", "Name another folder, or delete it"
        )
