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
    embedding = network.get_input_embeddings()
    shared = next(name for name, module in network.named_modules() if module is embedding)
    columns = {name: weight.shape[1] for name, weight in weights.items()}
    return _saved_formats(saved, columns, shared), weights


@torch.inference_mode()
def _rounded(module: Any) -> torch.Tensor:
    """What a module computes with."""
    scheme = getattr(module, "quantization_scheme", None)
    weight: torch.Tensor = module.weight
    return weight if scheme is None else forward_quantize(module, weight, "weight", scheme.weights)


def _saved_formats(folder: Path, columns: dict[str, int], shared: str) -> dict[str, Format]:
    """By module path; ``columns`` are inputs of each module, ``shared`` the embedding that a tied head is stored as."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told = config.get("quantization_config", {})
    named = {target: group for group in told.get("config_groups", {}).values() for target in group["targets"]}
    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            shapes |= {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    found = {}
    for name, group in named.items():
        if name in columns:
            stored = f"{name}.weight_scale" in shapes or not config["tie_word_embeddings"]
            scales = shapes[f"{name if stored else shared}.weight_scale"]
            found[name] = _format(group, scales, columns[name])
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
