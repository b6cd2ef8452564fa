"""``recipe.yaml`` through ``oneshot`` of ``llm-compressor``; formats are read from the checkpoint that it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import forward_quantize
from llmcompressor import oneshot  # type: ignore[import-not-found]
from safetensors import safe_open
from torch.utils.data import DataLoader

from benchmarks.recipe_programs.job import Answer, Format, Work, answer


def run(work: Work) -> Answer:
    """Weights as the calibrated modules round them; formats from ``config.json`` and the shapes of saved scales."""
    network, saved = work.network(torch.bfloat16), work.folder / "compressed"
    oneshot(
        model=network,
        dataset=DataLoader(work.samples(), batch_size=1),
        recipe=str(work.recipe),
        num_calibration_samples=len(work.calibration),
        max_seq_length=work.calibration.shape[1],
        tokenizer=work.job.model,
    )
    weights = {name: _rounded(network.get_submodule(name)) for name in work.job.modules}
    network.save_pretrained(saved, save_compressed=True)
    return _saved_formats(saved, {name: weight.shape[1] for name, weight in weights.items()}), weights


@torch.inference_mode()
def _rounded(module: Any) -> torch.Tensor:
    """What a module computes with."""
    scheme = getattr(module, "quantization_scheme", None)
    weight: torch.Tensor = module.weight
    return weight if scheme is None else forward_quantize(module, weight, "weight", scheme.weights)


def _saved_formats(folder: Path, columns: dict[str, int]) -> dict[str, Format]:
    """By module path; ``columns`` are inputs of each module."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config", {})
    named = {target: group for group in told.get("config_groups", {}).values() for target in group["targets"]}
    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            shapes |= {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    found = {}
    for name, group in named.items():
        if name in columns:
            found[name] = _format(group, shapes[f"{name}.weight_scale"], columns[name])
    return found


def _format(group: dict[str, Any], scales: list[int], columns: int) -> Format:
    weights, inputs = group["weights"], group["input_activations"]
    strategy = weights["strategy"]
    grouped = strategy in ("group", "tensor_group", "block")
    return Format(
        bits=weights["num_bits"],
        number_type=weights["type"],
        group_size=columns // scales[1] if grouped else None,
        symmetric=weights["symmetric"],
        block_rows=weights["block_structure"][0] if strategy == "block" else int(strategy != "tensor"),
        input_bits=None if inputs is None else inputs["num_bits"],
    )


if __name__ == "__main__":
    answer(run)
