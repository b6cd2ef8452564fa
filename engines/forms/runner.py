"""Runs in the environment of a form's loader: ``python runner.py REQUEST.json``. Needs nothing of Paretune.

The request names ``model`` (a folder), ``ids`` (int64 ``(windows, tokens)``, .npy), ``out`` (a file for float32
log-probabilities), ``top`` (how many a position; null: the whole vocabulary, in its order), ``out_ids`` (a file for
the tokens they belong to) and ``answer``. Nothing is between the folder and ``transformers`` but the choice of
float32 for what the form leaves open and, where logits of attention are capped, of the attention that computes that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> None:
    """Write the predictions that the request asks for."""
    import numpy as np
    import torch

    model = _load(request["model"])
    ids = torch.from_numpy(np.load(request["ids"], allow_pickle=False))
    found: list[Any] = []
    with torch.inference_mode():
        for window in ids:
            logits = model(input_ids=window[None], use_cache=False).logits[0].to(torch.float32)
            found.append(_kept(torch.log_softmax(logits, dim=-1), request["top"]))
    np.save(request["out"], torch.stack([values for values, _ in found]).numpy(), allow_pickle=False)
    if request["top"] is not None:
        np.save(request["out_ids"], torch.stack([named for _, named in found]).numpy(), allow_pickle=False)
    Path(request["answer"]).write_text("{}", encoding="utf-8")


def _load(folder: str) -> Any:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        device_map="cpu",
        attn_implementation="eager" if capped else "sdpa",
        local_files_only=True,
        trust_remote_code=False,
    )
    return model.eval()


def _kept(values: Any, top: int | None) -> tuple[Any, Any]:
    """Log-probabilities ``(tokens, k)`` and whose they are."""
    if top is None:
        return values, None
    best = values.topk(min(top, values.shape[-1]), dim=-1)
    return best.values, best.indices


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
