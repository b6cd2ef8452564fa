"""``layer_config`` of AutoRound as JSON: ``AutoRound(..., layer_config=json.load(file))``.

Keys are module names; a module outside the mapping gets the scheme of the call, so dense ones are named too, with 16
bits (github.com/intel/auto-round, ``schemes.py``, ``compressors/layer_config_resolver.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paretune.engines.recipes.recipe import Recipe, dense_modules, packed_integers
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import LEGAL, Ruling
from paretune.spaces.model import Linear, ModelSpec

_WIDTHS = (2, 3, 4, 8)
_BUNDLE = 32
_DENSE = {"bits": 16, "data_type": "float", "act_bits": 16, "act_data_type": "float"}


class AutoRound(Recipe):
    """Rounding learned block by block, by signed gradient descent."""

    name = "auto-round"
    file_name = "layer_config.json"
    version = "0.15.1"
    methods: Mapping[str, str] = {}
    fallback = "signed gradient descent on roundings and ranges (plain rounding with iters=0)"

    def layer_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """Integers that its format packs."""
        if linear.role == "embedding":
            return self.refused("it quantizes embeddings for GGUF alone")
        if choice.weight.actorder != "none":
            return self.refused("it has no order of columns")
        reason = packed_integers(linear, choice, _WIDTHS, _BUNDLE)
        return self.refused(reason) if reason else LEGAL

    def written(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """Every linear by name, in the order of the model."""
        left, found = set(dense_modules(spec, config)), {}
        for linear in spec.linears:
            if linear.name in config.layers:
                found[linear.name] = _settings(config.layers[linear.name])
            elif linear.name in left and linear.role != "embedding":
                found[linear.name] = _DENSE
        return json.dumps(found, indent=2) + "\n"


def _settings(choice: LayerChoice) -> dict[str, Any]:
    weight = choice.weight
    return {
        "bits": weight.num_bits,
        "group_size": -1 if weight.group_size is None else weight.group_size,
        "sym": weight.symmetric,
        "data_type": "int",
        "act_bits": 16,
    }
