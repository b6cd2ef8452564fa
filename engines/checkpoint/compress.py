"""Compresses a checkpoint to one configuration, without ever holding the model: bank, then export.

Statistics are gathered block by block, entries slab by slab, and what is written goes shard by shard.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.ruling import checkpoint_ruling
from paretune.engines.checkpoint.shards import SHARD_BYTES
from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.engines.whole_folder import refuse_occupied
from paretune.spaces.architectures import read_model
from paretune.spaces.checking import check_configuration
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    import torch

    from paretune.compressors.bank import Progress
    from paretune.compressors.windows import TokenWindows

_SMALLEST_SHARD_BYTES = 1 << 28
"""Files smaller than this save no memory worth having."""


def compress_checkpoint(
    source: Path,
    config: CompressionConfig,
    out: Path,
    calibration: TokenWindows,
    *,
    bank: Path | None = None,
    card: ExportCard | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Write the candidate of the checkpoint ``source`` into ``out``, which is returned.

    Args:
        source: in Hugging Face format, with safetensors.
        config: of the candidate.
        out: absent or empty.
        calibration: text of the statistics, and of the methods that need inputs.
        bank: folder that is kept and used again, also after an interruption; a temporary one if left out.
        card: what the export says about itself.
        device: where a block is run and quantized.
        progress: called with what is being done, how many are done and how many there are.

    Raises:
        ConfigurationError, FormatError: a configuration that the model cannot have.
        EngineError: one that the container cannot express, or ``out`` is not empty.
        ModelError: weights that are absent, not those of ``config.json``, or cannot be read part by part.
        RunError: ``bank`` is another's, or the disk is full.
    """
    from paretune.compressors.bank import Bank
    from paretune.compressors.loading import model_hash
    from paretune.compressors.streamed_model import open_streamed

    refuse_occupied(out)
    spec = read_model(source)
    check_configuration(spec, config)
    verdict = checkpoint_ruling(spec, config)
    if not verdict:
        raise EngineError(f"export of {source}", verdict.reason, "Choose other formats")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.bank-", dir=out.parent) as place:
        model = open_streamed(source, spec, device=device)
        folder = Path(place) if bank is None else bank
        made = Bank.open(folder, source, model, spec, model_hash(source), calibration)
        made.build_for(config, progress)
        return write_checkpoint(made, config, out, card or ExportCard(source), _shard_bytes(spec))


def _shard_bytes(spec: ModelSpec) -> int:
    """Of files that are not larger than two dense blocks, which is the room there has to be."""
    block = sum(x.weights for x in spec.block_linears if x.block == 0) * spec.dtype_bytes
    return min(SHARD_BYTES, max(_SMALLEST_SHARD_BYTES, 2 * block))
