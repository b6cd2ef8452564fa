"""``FqnToConfig`` of torchao as JSON: ``quantize_(model, config_from_dict(json.load(file)))``.

The form is that of ``torchao.core.config.config_to_dict``, which ``transformers`` keeps in ``config.json`` too; keys
are fully qualified module names (github.com/pytorch/ao, ``torchao/quantization/quant_api.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paretune.engines.recipes.recipe import Recipe, dense_modules, modules
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.formats import WeightFormat
from paretune.spaces.legality import LEGAL, Ruling
from paretune.spaces.model import Linear, ModelSpec


class TorchAo(Recipe):
    """Rounded to nearest, without calibration."""

    name = "torchao"
    file_name = "fqn_to_config.json"
    version = "0.18.0"
    methods: Mapping[str, str] = {"rtn": "AFFINE", "minmax": "AFFINE"}
    fallback = "its affine choice of scales (rounded to nearest between minimum and maximum)"

    def layer_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """Integers of any width, E4M3 by row or tensor, and INT8 by row with INT8 inputs by token."""
        if linear.transposed:
            return self.refused("a Conv1D holds its weight transposed, and groups run along the stored rows")
        if choice.sparsity is not None:
            return self.refused("FqnToConfig quantizes; pruning is another call of the library")
        if choice.weight.actorder != "none":
            return self.refused("it rounds columns where they are and has no order of columns")
        if _configuration(choice) is None:
            inputs = "" if choice.activation is None else f" with inputs of {choice.activation.name}"
            return self.refused(
                f"{choice.weight.name}{inputs}: it has integers with integer zero points by group or row, INT8 and"
                " E4M3 by row or tensor, and INT8 by row with inputs by token, for every device"
            )
        return LEGAL

    def notes(self, spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
        """A tied head becomes a tensor of its own, which a size counted here does not have."""
        found = super().notes(spec, config)
        if spec.tied and not config.choice(spec.embedding.name).weight.dense:
            found += (f"{spec.head.name} shares the weight of {spec.embedding.name}; torchao stores both",)
        return found

    def written(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """Every linear, embedding and head by name; ``null`` leaves a module alone."""
        found: dict[str, Any] = dict.fromkeys(dense_modules(spec, config))
        for layer, choice in config.layers.items():
            found.update(dict.fromkeys(modules(spec, layer), _configuration(choice)))
        ordered = {linear.name: found[linear.name] for linear in spec.linears if linear.name in found}
        return json.dumps(_typed("FqnToConfig", 1, fqn_to_config=ordered), indent=2) + "\n"


def _configuration(choice: LayerChoice) -> dict[str, Any] | None:
    """The configuration of a module; ``None`` where there is none that runs on every device."""
    weight = choice.weight
    if choice.activation is not None:
        plain = (
            weight == WeightFormat(num_bits=8, number_type="int") and choice.activation == ActivationFormat()
        )
        return _typed("Int8DynamicActivationInt8WeightConfig", 2, granularity=_ROW) if plain else None
    if weight.scale != "model" or weight.zero_point == "float":
        return None
    if weight.number_type == "int" and weight.block_rows == 1:
        return _typed(
            "IntxWeightOnlyConfig",
            2,
            weight_dtype=_named("torch.dtype", f"int{weight.num_bits}"),
            granularity=_typed("PerAxis", 1, axis=0)
            if weight.group_size is None
            else _typed("PerGroup", 1, group_size=weight.group_size),
            mapping_type=_named("MappingType", "SYMMETRIC" if weight.symmetric else "ASYMMETRIC"),
        )
    if weight.group_size is not None or weight.num_bits != 8:
        return None
    granularity = _ROW if weight.block_rows == 1 else _typed("PerTensor", 1)
    kinds = {"int": "Int8WeightOnlyConfig", "float": "Float8WeightOnlyConfig"}
    return (
        _typed(kinds[weight.number_type], 2, granularity=granularity) if weight.number_type in kinds else None
    )


def _typed(name: str, version: int, **data: Any) -> dict[str, Any]:
    return {"_type": name, "_version": version, "_data": data}


def _named(name: str, value: str) -> dict[str, Any]:
    return {"_type": name, "_data": value}


_ROW = _typed("PerRow", 1, dim=-1)
