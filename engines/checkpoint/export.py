"""Checkpoints for ``transformers``: what ``torch``, ``torch-cpu`` and ``transformers`` itself write and load."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.legality import checkpoint_ruling
from paretune.engines.engine import ExportCard, require_exportable
from paretune.engines.environments import Environment, find_environment
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineAbsentError

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider


def export_checkpoint(
    weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
) -> Path:
    """Write a compressed-tensors checkpoint, or a plain one where nothing is quantized.

    Raises:
        EngineError: the format cannot express the candidate, or the folder is not empty.
    """
    from paretune.engines.checkpoint.writer import write_checkpoint

    require_exportable(checkpoint_ruling(weights.spec, config), card)
    return write_checkpoint(weights, config, folder, card)


def checkpoint_environment() -> Environment:
    """The interpreter that has ``transformers``; ours, unless another is named.

    Raises:
        EngineAbsentError: there is none.
    """
    found = find_environment("transformers")
    if found is None:
        raise EngineAbsentError("transformers", "is not installed", "pip install transformers")
    return found


def expanded_in_float32(config: CompressionConfig) -> bool:
    """Whether weights are expanded in float32; one block float has all of a model expanded in bfloat16.

    Then products of other codes and scales are rounded, and inputs that are rounded as well may get other codes.
    """
    return not any(choice.weight.scale in ("fp8", "exponent") for choice in config.layers.values())


def generation_line(folder: Path) -> str:
    """Generate through ``transformers``, which decompresses the weights."""
    model = json.dumps(str(folder), ensure_ascii=False)
    program = (
        "from transformers import pipeline; "
        f'generate = pipeline("text-generation", {model}); '
        'print(generate("Once", max_new_tokens=20)[0]["generated_text"])'
    )
    return f"python -c {shlex.quote(program)}"
