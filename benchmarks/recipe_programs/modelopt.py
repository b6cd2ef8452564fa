"""``quant_cfg`` through ``mtq.quantize`` of ``nvidia-modelopt``; formats are read from the exported checkpoint."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]
import torch
from modelopt.torch.export import export_hf_checkpoint  # type: ignore[import-not-found]
from safetensors.torch import load_file

from benchmarks.recipe_programs.job import Answer, Format, Work, answer

_INPUTS = {"W8A8_SQ_PER_CHANNEL": 8, "FP8": 8, "FP8_PER_CHANNEL_PER_TOKEN": 8}
"""Bits of inputs by the export's names; those that are missing round weights alone."""


def run(work: Work) -> Answer:
    """Weights as the quantizers round them, before the export packs them."""
    network = work.network(torch.bfloat16)
    recipe = ast.literal_eval(work.recipe.read_text(encoding="utf-8"))
    samples = work.samples()

    def calibrate(model: Any) -> None:
        for sample in samples:
            model(**{key: row[None] for key, row in sample.items()})

    network = mtq.quantize(network, recipe, calibrate)
    weights = {name: _rounded(network.get_submodule(name)) for name in work.job.modules}
    saved = work.folder / "exported"
    export_hf_checkpoint(network, export_dir=str(saved))
    return _formats(saved, {name: tuple(weight.shape) for name, weight in weights.items()}), weights


@torch.inference_mode()
def _rounded(module: Any) -> torch.Tensor:
    weight: torch.Tensor = module.weight.detach().clone()
    return module.weight_quantizer(weight).clone() if module.weight_quantizer.is_enabled else weight


def _formats(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Format]:
    """From names of algorithms, types of stored weights and shapes of scales."""
    told = json.loads((folder / "hf_quant_config.json").read_text(encoding="utf-8"))["quantization"]
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    found = {}
    for name, (rows, columns) in shapes.items():
        scales = tensors.get(f"{name}.weight_scale")
        if scales is not None:
            layer = told.get("quantized_layers", {}).get(name, told)
            found[name] = _format(layer["quant_algo"], tensors[f"{name}.weight"], scales, rows, columns)
    return found


def _format(algorithm: str, stored: torch.Tensor, scales: torch.Tensor, rows: int, columns: int) -> Format:
    """Of one module: two 4-bit codes lie in a byte, one over the other along the rows."""
    group, block_rows = None, int(scales.numel() > 1)
    if scales.ndim == 4:
        group, block_rows = columns // scales.shape[2], rows // scales.shape[0]
    elif scales.ndim == 2:
        group = columns // scales.shape[1]
    return Format(
        bits=4 if stored.dtype == torch.uint8 else 8,
        number_type="float" if stored.dtype.is_floating_point else "int",
        group_size=group,
        symmetric=True,
        block_rows=block_rows,
        input_bits=_INPUTS.get(algorithm),
    )


if __name__ == "__main__":
    answer(run)
