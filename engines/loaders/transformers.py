"""Loads a checkpoint in ``transformers``, of any form that it knows: see :mod:`paretune.engines.runner`."""

from __future__ import annotations

from typing import Any

import numpy as np


class TransformersModel:
    """Whatever ``transformers`` loads, in float32 on the CPU; weights are expanded, or as the loader of the form does.

    Nothing is between the folder and the library but the choice of float32 and, where logits of attention are capped,
    of the attention that computes that.
    """

    def __init__(self, job: dict[str, Any], tokens: int) -> None:
        import torch
        import transformers

        del tokens
        local = {"local_files_only": True, "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(job["model"], **local)
        quantized = getattr(config, "quantization_config", None) or {}
        usual = quantized.get("quant_method", "compressed-tensors") == "compressed-tensors"
        groups = quantized.get("config_groups", {}).values() if usual else ()
        # Block floats are expanded in bf16 whatever dtype is asked for.
        blocks = any(str(x.get("format", "")).startswith(("nvfp4", "mxfp4", "mxfp8")) for x in groups)
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
        named = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModelForCausalLM)
        plain = capped or not getattr(named, "_supports_sdpa", True)
        found = named.from_pretrained(
            job["model"],
            config=config,
            dtype=torch.bfloat16 if blocks else torch.float32,
            attn_implementation="eager" if plain else "sdpa",
            **({} if usual else {"device_map": "cpu"}),
            **local,
        )
        self._model = found.eval()
        if groups:
            with torch.inference_mode():  # packed weights are expanded by the first pass
                self._model(input_ids=torch.zeros(1, 1, dtype=torch.long))
            self._model = self._model.to(torch.float32)

    def clear(self) -> None:
        """Nothing is kept of a sequence."""

    def logits(self, ids: np.ndarray, every: bool = True) -> np.ndarray:
        """Of a sequence by itself, ``(tokens, vocabulary)``."""
        import torch

        del every
        with torch.inference_mode():
            found = self._model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0]
        logits: np.ndarray = found.to(torch.float32).numpy()
        return logits


load = TransformersModel
