"""HQQ by its authors' ``hqq``: each linear by ``Quantizer.quantize``, zero points and scales in float32."""

from __future__ import annotations

import torch
from hqq.core.quantize import Quantizer

from benchmarks.peer_programs.job import Model, answer


def quantize(model: Model) -> None:
    """Groups lie along the inputs (``axis=1``), as they do in every container we write."""
    for name in model.job.linears:
        linear = model.linear(name)
        packed, meta = Quantizer.quantize(
            linear.weight.data,
            nbits=model.job.num_bits,
            group_size=model.job.group_size,
            axis=1,
            bitpack=False,
            compute_dtype=torch.float32,
            device="cpu",
            **model.job.options,
        )
        linear.weight.data = Quantizer.dequantize(packed, meta).reshape(linear.weight.shape)


if __name__ == "__main__":
    answer(quantize)
