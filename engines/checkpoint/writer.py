"""Writes a candidate as a folder for ``transformers``: compressed-tensors, or plain if nothing is quantized.

Everything is written into a folder beside the target, which takes the target's name when it is complete. Other forms
of checkpoint (:mod:`paretune.engines.forms`) bring tensors and a ``quantization_config`` of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.compressors.assembly import Assembler
from paretune.compressors.companions import copy_companions
from paretune.compressors.weight_provider import WeightProvider
from paretune.engines.checkpoint.schemes import TRANSFORMERS, CheckpointLayout, quantization_config
from paretune.engines.checkpoint.tensors import SHARD_BYTES, StoredTensors, write_shards
from paretune.engines.engine import ExportCard
from paretune.engines.manifest import MANIFEST, write_manifest
from paretune.engines.model_card import base_licence, model_card
from paretune.spaces.architectures import pruned_config
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.files import CONFIGURATION, read_object, write_json, write_whole, written_whole
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import weight_bytes

if TYPE_CHECKING:
    import torch


_PACKAGES = ("torch", "transformers", "compressed-tensors", "safetensors")


@dataclass(frozen=True)
class Content:
    """What a checkpoint of one form consists of, besides what every export has.

    Attributes:
        spec: of the dense model, as the form stores it.
        tensors: of the candidate, one after the other.
        quantization: ``quantization_config`` of ``config.json``; ``None``: nothing is quantized.
        engine: registered name of the engine that loads it.
        form: name of the form, empty where the engine has one alone.
        tags: of the model card.
        notes: what a user has to know.
        packages: whose versions are recorded.
    """

    spec: ModelSpec
    tensors: Iterable[tuple[str, torch.Tensor]]
    quantization: Mapping[str, Any] | None
    engine: str = "transformers"
    form: str = ""
    tags: tuple[str, ...] = ("compressed-tensors",)
    notes: tuple[str, ...] = ()
    packages: tuple[str, ...] = _PACKAGES


def write_checkpoint(
    weights: Assembler | WeightProvider,
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
        EngineError: as :func:`write_content`.
    """
    spec, bank = weights.spec, bank_of(weights)
    content = Content(
        spec,
        StoredTensors(spec, bank, config, published_names=layout.published_names),
        quantization_config(spec, config, layout),
        engine=layout.engine,
        notes=() if layout.cache_scheme else export_notes(config),
    )
    return write_content(content, config, folder, card, shard_bytes)


def bank_of(weights: Assembler | WeightProvider) -> WeightProvider:
    """The bank that weights are taken from."""
    return weights.bank if isinstance(weights, Assembler) else weights


def write_content(
    content: Content,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a checkpoint of any form into ``folder``, whole or not at all; returns it.

    Raises:
        EngineError: the folder is there already and not empty, the source has no ``config.json``, the disk is
            full, or what was written is not as large as it was announced.
    """
    with written_whole(folder) as partial:
        _write(content, config, partial, card, shard_bytes)
    return folder


def _write(
    content: Content, config: CompressionConfig, folder: Path, card: ExportCard, shard_bytes: int
) -> None:
    spec = content.spec
    written = write_shards(content.tensors, folder, shard_bytes)
    announced = weight_bytes(spec, config)
    if written != announced:
        raise EngineError(
            f"export of {card.name}",
            f"{written} bytes of tensors were written and {announced} announced",
            "Report this: a format's container and its size disagree",
        )
    write_json(folder / "config.json", _model_config(card.source, config, content))
    copy_companions(card.source, folder)
    text = model_card(spec, config, card, base_licence(card.source), content.notes, tags=content.tags)
    write_whole(folder / "README.md", text)
    write_manifest(
        folder,
        spec,
        config,
        card,
        engine=content.engine,
        form=content.form,
        notes=content.notes,
        packages=content.packages,
    )


def export_notes(config: CompressionConfig) -> tuple[str, ...]:
    """What a user of the checkpoint has to know: what is recorded in it but not done by ``transformers``."""
    if config.kv.num_bits == 16:
        return ()
    return (
        f"the key-value cache {config.kv.name} is recorded in {MANIFEST} and done by Paretune's own"
        " runtime; transformers keeps 16 bits",
    )


def _model_config(source: Path, config: CompressionConfig, content: Content) -> dict[str, Any]:
    values = read_object(source / "config.json", CONFIGURATION)
    result = pruned_config(values, content.spec, config.pruned)
    if content.quantization is not None:
        result["quantization_config"] = dict(content.quantization)
    return result
