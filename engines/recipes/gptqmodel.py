"""``quantize_config.json`` of GPTQModel with ``dynamic``: ``QuantizeConfig(**json.load(file))``.

Keys of ``dynamic`` are regular expressions: ``+:`` overrides the settings of what matches, ``-:`` leaves it alone; the
first that matches counts (github.com/ModelCloud/GPTQModel, ``quantization/config.py``). Ours match one name each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from paretune.engines.recipes.recipe import Recipe, dense_modules, packed_integers
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import LEGAL, Ruling
from paretune.spaces.model import Linear, ModelSpec

_WIDTHS = (2, 3, 4, 8)
_BUNDLE = 32


class GptqModel(Recipe):
    """GPTQ block by block, each calibrated on what the quantized blocks before it give."""

    name = "gptqmodel"
    file_name = "quantize_config.json"
    version = "7.6.0"
    methods: Mapping[str, str] = {"gptq": "gptq"}
    fallback = "GPTQ"

    def layer_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """Integers that its containers pack, in the linears of blocks."""
        if linear.block is None:
            return self.refused("dynamic was tried on the linears of blocks alone; it packs no embedding")
        if choice.weight.actorder == "weight":
            return self.refused("it has desc_act, which orders groups too, and no order of columns alone")
        reason = packed_integers(linear, choice, _WIDTHS, _BUNDLE)
        return self.refused(reason) if reason else LEGAL

    def written(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """Every linear of the blocks by name; the default outside ``dynamic`` is the first layer's and reaches none."""
        left = set(dense_modules(spec, config))
        found: dict[str, dict[str, Any]] = {}
        for linear in spec.linears:
            pattern = f"^{re.escape(linear.name)}$"
            if linear.block is not None and linear.name in left:
                found[f"-:{pattern}"] = {}
            elif linear.name in config.layers:
                found[f"+:{pattern}"] = _settings(config.layers[linear.name])
        default = next(iter(config.layers.values()))
        values = {"quant_method": "gptq", **_settings(default), "lm_head": False, "dynamic": found}
        return json.dumps(values, indent=2) + "\n"


def _settings(choice: LayerChoice) -> dict[str, Any]:
    """Of one module; ``act_group_aware`` would order columns where nothing says so."""
    weight = choice.weight
    return {
        "bits": weight.num_bits,
        "group_size": -1 if weight.group_size is None else weight.group_size,
        "sym": weight.symmetric,
        "desc_act": weight.actorder == "group",
        "act_group_aware": False,
    }
