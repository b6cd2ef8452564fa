"""Loads a checkpoint in a fresh process, writes logits: ``python -m`` this module ``FOLDER IDS.npy OUT.npy``.

Nothing of Paretune is between the folder and ``transformers`` but the choice of float32 and, where logits of
attention are capped, of the attention that computes that.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path, ids_file: Path, out_file: Path) -> None:
    """Write float32 logits ``(windows, tokens, vocabulary)`` of int64 ids ``(windows, tokens)``."""
    import numpy as np
    import torch

    from paretune.compressors.loading import load_checkpoint

    model = load_checkpoint(folder, torch.float32)
    ids = torch.from_numpy(np.load(ids_file, allow_pickle=False))
    out = None
    with torch.inference_mode():
        for index, window in enumerate(ids):
            logits = model(input_ids=window[None], use_cache=False).logits[0].to(torch.float32).numpy()
            if out is None:
                shape = (len(ids), *logits.shape)
                out = np.lib.format.open_memmap(out_file, mode="w+", dtype=np.float32, shape=shape)
            out[index] = logits
    if out is not None:
        out.flush()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
