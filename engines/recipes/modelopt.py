"""``quant_cfg`` of NVIDIA's Model Optimizer as a Python literal: ``mtq.quantize(model, ast.literal_eval(text), loop)``.

A list of rules in which later ones win: the first turns every quantizer off, each of the others turns on one quantizer
of one module. What its export has no name for is refused: checkpoints for TensorRT-LLM are made by
``export_hf_checkpoint``, which fails or writes another format (github.com/NVIDIA/Model-Optimizer,
``modelopt/torch/quantization/config.py``, ``modelopt/torch/export/quant_utils.py``).
"""

from __future__ import annotations

import glob
import pprint
from collections.abc import Mapping
from typing import Any

from paretune.engines.recipes.recipe import Recipe
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.groups import fused_groups
from paretune.spaces.legality import LEGAL, Ruling
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.named_formats import WEIGHT_FORMATS, WITH_INPUTS

_E4M3 = (4, 3)
_EXACT: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any] | None]] = {
    # formats of weights and inputs by our names: rules of weight_quantizer and input_quantizer
    ("int8-channel", ""): ({"num_bits": 8, "axis": 0}, None),
    ("fp8-block", ""): ({"num_bits": _E4M3, "block_sizes": {-1: 128, -2: 128}}, None),
    ("w8a8-static", "inputs"): ({"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}),
    ("fp8-static", "inputs"): ({"num_bits": _E4M3, "axis": None}, {"num_bits": _E4M3, "axis": None}),
    ("fp8-dynamic", "inputs"): (
        {"num_bits": _E4M3, "axis": 0},
        {"num_bits": _E4M3, "type": "dynamic", "block_sizes": {-1: None}},
    ),
}


class ModelOpt(Recipe):
    """Largest magnitudes as ranges, rounded to nearest."""

    name = "modelopt"
    file_name = "quant_cfg.py"
    version = "0.47.0"
    methods: Mapping[str, str] = {"rtn": "max", "minmax": "max"}
    fallback = "its algorithm 'max' (rounded to nearest under the largest magnitude)"

    def ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Besides layers: linears that share an input must have one format, or the export stops."""
        verdict = super().ruling(spec, config)
        for group in fused_groups(spec) if verdict else ():
            names = {_without_method(config.choice(layer)).name for layer in group.layers}
            if len(names) > 1:
                return self.refused(
                    f"{', '.join(group.layers)} have {', '.join(sorted(names))}: its export takes one format for"
                    " linears that share an input"
                )
        return verdict

    def layer_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """What its export knows, and a CPU can be asked to try."""
        if linear.role == "embedding":
            return self.refused("its export writes embeddings as they are, whatever their quantizer says")
        if linear.transposed:
            return self.refused("a Conv1D, which recipes were not tried with")
        if choice.sparsity is not None:
            return self.refused("quant_cfg quantizes; sparsity is another mode of the library")
        if choice.weight.scale != "model":
            return self.refused(
                f"{choice.weight.name}: it computes block floats by CUDA kernels alone, and its recipe was never tried"
                " on a GPU"
            )
        if _rules(choice) is None:
            inputs = "" if choice.activation is None else f" with inputs of {choice.activation.name}"
            return self.refused(
                f"{choice.weight.name}{inputs} has no name in its export, which knows symmetric 4-bit groups, INT8 by"
                " row (alone, or with static inputs), FP8 by tensor with static and by row with dynamic inputs, and"
                " FP8 in blocks of 128 by 128"
            )
        return LEGAL

    def kv_ruling(self, kv: KVFormat) -> Ruling:
        """FP8 under scales that the tool calibrates."""
        if kv.num_bits == 8 and kv.number_type == "float":
            return LEGAL
        return super().kv_ruling(kv)

    def written(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """Rules in the order of the model; ``*`` and its kin in names are escaped."""
        rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
        for linear in spec.linears:
            found = _rules(config.choice(linear.name)) if linear.name in config.layers else None
            for part, rule in zip(("weight", "input"), found or (), strict=False):
                if rule is not None:
                    name = f"{glob.escape(linear.name)}.{part}_quantizer"
                    rules.append({"quantizer_name": name, "cfg": rule})
        if config.kv != KVFormat():
            rules.append({"quantizer_name": "*[kv]_bmm_quantizer", "cfg": {"num_bits": _E4M3}})
        values = {"quant_cfg": rules, "algorithm": "max"}
        return pprint.pformat(values, width=110, sort_dicts=False) + "\n"


def _without_method(choice: LayerChoice) -> LayerChoice:
    return choice if choice.weight.dense else choice.model_copy(update={"method": ""})


def _rules(choice: LayerChoice) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Of ``weight_quantizer`` and ``input_quantizer``; ``None`` where the export has no name for the format."""
    weight = choice.weight
    grouped = weight.number_type == "int" and weight.num_bits == 4 and weight.group_size is not None
    if grouped and weight.symmetric and choice.activation is None and weight.actorder == "none":
        return {"num_bits": 4, "block_sizes": {-1: weight.group_size}}, None
    for (name, inputs), rules in _EXACT.items():
        wanted = WITH_INPUTS[name] if inputs else (WEIGHT_FORMATS[name], None)
        if wanted == (weight, choice.activation):
            return rules
    return None
