"""A recipe of ``llm-compressor`` applied to the windows of a job, and what it made of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compressed_tensors.offload import update_offload_parameter
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, forward_quantize
from llmcompressor import oneshot  # type: ignore[import-not-found]
from torch.utils.data import DataLoader

from benchmarks.peer_programs.job import Job, Model


def apply(model: Model, recipe: Sequence[Any]) -> None:
    """Calibrate on the job's windows, one a sample and in their order; the library chooses its pipeline."""
    oneshot(
        model=model.network,
        dataset=DataLoader(model.samples(), batch_size=1),
        recipe=list(recipe),
        num_calibration_samples=len(model.calibration),
        max_seq_length=model.calibration.shape[1],
        tokenizer=model.job.model,
    )


def weight_scheme(job: Job) -> dict[str, QuantizationScheme]:
    """Integer weights in groups on the job's linears, inputs as they are.

    ``observer`` among the options chooses how the library finds ranges.
    """
    chosen = {key: job.options[key] for key in ("observer", "observer_kwargs") if key in job.options}
    weights = QuantizationArgs(
        num_bits=job.num_bits,
        type="int",
        symmetric=job.symmetric,
        strategy="group",
        group_size=job.group_size,
        **chosen,
    )
    return {"linears": QuantizationScheme(targets=list(job.linears), weights=weights)}


def round_weights(model: Model) -> None:
    """Put what the checkpoint would compute with in place of each weight, rounded or not so far."""
    for name in model.job.linears:
        linear = model.linear(name)
        scheme = linear.quantization_scheme
        rounded = forward_quantize(linear, linear.weight, "weight", scheme.weights).detach()
        update_offload_parameter(linear, "weight", rounded)  # what an accelerator shows is a copy
