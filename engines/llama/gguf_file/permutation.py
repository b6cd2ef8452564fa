"""The order of rows of queries and keys: llama.cpp rotates neighbouring pairs where ``transformers`` rotates halves.

Source: ``LlamaModel.permute`` of llama.cpp's ``convert_hf_to_gguf.py``. Rows move whole, so packed rows move alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paretune.spaces.model import ModelSpec

_ROTATES_PAIRS = ("llama", "mistral", "mixtral")


def row_order(spec: ModelSpec, parameter: str, rows: int) -> NDArray[np.int64] | None:
    """Which row comes where, int64 ``(rows,)``; ``None`` where the order stays.

    Args:
        spec: of the model.
        parameter: name of the weight or bias.
        rows: of the pruned model's tensor: heads times their width.
    """
    module = parameter.rpartition(".")[0]
    if spec.family not in _ROTATES_PAIRS or not module.endswith((".q_proj", ".k_proj")):
        return None
    return np.arange(rows).reshape(-1, 2, spec.head_dim // 2).swapaxes(1, 2).reshape(-1)
