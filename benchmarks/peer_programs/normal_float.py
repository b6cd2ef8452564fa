"""NF4 by ``bitsandbytes`` on the CPU, blocks of 64 weights with float32 maxima (no double quantization)."""

from __future__ import annotations

from bitsandbytes.functional import dequantize_nf4, quantize_nf4  # type: ignore[import-not-found]

from benchmarks.peer_programs.job import Model, answer


def quantize(model: Model) -> None:
    """Each linear in flat blocks; a row holds whole blocks, so blocks are groups along the inputs."""
    for name in model.job.linears:
        linear = model.linear(name)
        packed, state = quantize_nf4(linear.weight.data.contiguous(), blocksize=model.job.group_size)
        linear.weight.data = dequantize_nf4(packed, state).reshape(linear.weight.shape)


if __name__ == "__main__":
    answer(quantize)
