"""Writes a candidate as a folder for ``transformers``: compressed-tensors, or plain if nothing is quantized.

Everything is written into a folder beside the target, which takes the target's name when it is complete. Other forms
of checkpoint (:mod:`paretune.engines.forms`) bring tensors and a ``quantization_config`` of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.compressors.assembly import Assembler
from paretune.compressors.expert_names import UNFOLDED
from paretune.compressors.weight_provider import WeightProvider
from paretune.engines.checkpoint.schemes import TRANSFORMERS, CheckpointLayout, quantization_config
from paretune.engines.checkpoint.tensors import SHARD_BYTES, StoredTensors, write_shards
from paretune.engines.engine import ExportCard
from paretune.engines.export_folder import ExportKind, write_export
from paretune.engines.manifest import MANIFEST
from paretune.spaces.architectures import pruned_config
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.files import CONFIGURATION, read_object, write_json
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    import torch


_PACKAGES = ("torch", "transformers", "compressed-tensors", "safetensors")


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
        EngineError: as :func:`write_tensors`.
    """
    spec = weights.spec
    published = layout.published_names
    unfolded = spec.family in UNFOLDED and not published
    stored = StoredTensors(spec, bank_of(weights), config, published_names=published, unfolded=unfolded)
    notes = () if layout.cache_scheme else export_notes(config)
    kind = ExportKind(layout.engine, ("compressed-tensors",), _PACKAGES, notes=notes)
    quantization = quantization_config(spec, config, layout)
    return write_tensors(kind, spec, stored, quantization, config, folder, card, shard_bytes)


def bank_of(weights: Assembler | WeightProvider) -> WeightProvider:
    """The bank that weights are taken from."""
    return weights.bank if isinstance(weights, Assembler) else weights


def write_tensors(
    kind: ExportKind,
    spec: ModelSpec,
    tensors: Iterable[tuple[str, torch.Tensor]],
    quantization: Mapping[str, Any] | None,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a checkpoint of any form into ``folder``, whole or not at all; returns it.

    Args:
        kind: of the export.
        spec: of the dense model, as the form stores it.
        tensors: of the candidate, one after the other.
        quantization: ``quantization_config`` of ``config.json``; ``None``: nothing is quantized.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.
        shard_bytes: of a file; as much is in memory at once.

    Raises:
        EngineError: as :func:`~paretune.engines.export_folder.write_export`.
        ModelError: the source has no ``config.json``.
    """

    def write(partial: Path) -> int:
        written = write_shards(tensors, partial, shard_bytes)
        values = pruned_config(read_object(card.source / "config.json", CONFIGURATION), spec, config.pruned)
        more = {} if quantization is None else {"quantization_config": dict(quantization)}
        write_json(partial / "config.json", {**values, **more})
        return written

    return write_export(kind, spec, config, folder, card, write)


def export_notes(config: CompressionConfig) -> tuple[str, ...]:
    """What a user of the checkpoint has to know: what is recorded in it but not done by ``transformers``."""
    if config.kv.num_bits == 16:
        return ()
    return (
        f"the key-value cache {config.kv.name} is recorded in {MANIFEST} and done by Paretune's own"
        " runtime; transformers keeps 16 bits",
    )
