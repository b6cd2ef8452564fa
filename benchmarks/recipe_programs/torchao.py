"""``FqnToConfig`` through ``quantize_`` of ``torchao``; formats are read from the tensors that it puts in place."""

from __future__ import annotations

import json
from typing import Any

import torch
from torchao.core.config import config_from_dict  # type: ignore[import-not-found]
from torchao.quantization import quantize_  # type: ignore[import-not-found]

from benchmarks.recipe_programs.job import Answer, Format, Work, answer


def run(work: Work) -> Answer:
    """Formats from types, scales and zero points of the stored tensors; weights as they are expanded."""
    network = work.network(torch.bfloat16)
    recipe = config_from_dict(json.loads(work.recipe.read_text(encoding="utf-8")))
    quantize_(network, recipe, filter_fn=None)
    formats, weights = {}, {}
    for name in work.job.modules:
        weight = network.get_submodule(name).weight
        plain = type(weight.data) is torch.Tensor or type(weight) is torch.nn.Parameter
        weights[name] = weight if plain else weight.dequantize()
        if not plain:
            formats[name] = _format(weight)
    return formats, weights


def _format(weight: Any) -> Format:
    """Of a tensor subclass: integers of a width kept in bytes, INT8, or E4M3."""
    codes, scale = weight.qdata, weight.scale
    rows, groups = (scale.shape[0], scale.shape[1]) if scale.ndim == 2 else (scale.numel(), 1)
    target = getattr(weight, "target_dtype", None)
    zeros = getattr(weight, "zero_point", None)
    inputs = getattr(weight, "act_quant_kwargs", None)
    return Format(
        bits=8 if target is None else int(str(target).removeprefix("torch.int")),
        number_type="float" if codes.dtype.is_floating_point else "int",
        group_size=None if groups == 1 else codes.shape[1] // groups,
        symmetric=zeros is None or not bool(zeros.any()),
        block_rows=1 if rows == codes.shape[0] else 0,
        input_bits=None if inputs is None else 8,
    )


if __name__ == "__main__":
    answer(run)
