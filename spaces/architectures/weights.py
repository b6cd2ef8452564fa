"""Whether the weight files of a model folder are all there and whole."""

from __future__ import annotations

from pathlib import Path

from spaces.architectures.headers import StoredTensor, read_header, weight_files


def check_weights(folder: Path) -> tuple[StoredTensor, ...]:
    """Every tensor of the checkpoint, after seeing that each file is present and of the promised length.

    Raises:
        ModelError: an index names a file that is absent or outside the folder, a file is cut short, or there
            are no safetensors at all.
    """
    return tuple(tensor for file in weight_files(folder) for tensor in read_header(file))
