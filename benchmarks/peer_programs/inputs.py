"""W8A8 by ``llm-compressor``: weights and inputs in INT8, compared by the library's own rounding modules.

Inputs are rounded while the network runs, so weights alone do not say what the checkpoint computes: the program reads
the benchmark windows itself, dense and compressed, over the full vocabulary in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor.modifiers.quantization import QuantizationModifier  # type: ignore[import-not-found]

from benchmarks.peer_programs.job import Model, answer, load
from benchmarks.peer_programs.oneshot import apply


def compress(model: Model) -> list[float]:
    """KL of each window, in nats a token."""
    static = model.job.method.endswith("-static")
    weights = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    inputs = QuantizationArgs(
        num_bits=8,
        type="int",
        symmetric=model.job.options.get("symmetric_inputs", True),
        strategy="tensor" if static else "token",
        dynamic=not static,
    )
    scheme = QuantizationScheme(targets=list(model.job.linears), weights=weights, input_activations=inputs)
    apply(model, [QuantizationModifier(config_groups={"linears": scheme})])
    return _divergences(load(model.job.model), model.network.eval(), model.benchmark)


@torch.inference_mode()
def _divergences(dense: Any, network: Any, windows: torch.Tensor) -> list[float]:
    found = []
    for row in windows:
        expected, logits = (each(input_ids=row[None]).logits[0].float() for each in (dense, network))
        expected = expected.log_softmax(-1)
        kl = (expected.exp() * (expected - logits.log_softmax(-1))).sum(-1)
        found.append(float(kl.to(torch.float64).mean()))
    return found


if __name__ == "__main__":
    answer(compress)
