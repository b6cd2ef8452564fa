"""``recipe.yaml`` of llm-compressor: modifiers with groups of exact targets, as ``oneshot(recipe=...)`` takes them.

Formats are compressed-tensors' ``QuantizationArgs``, the words that our own checkpoints are written in. A modifier
applies one method; each method of a candidate has one of its own, after those that prune (github.com/vllm-project/
llm-compressor, ``modifiers/quantization``, ``modifiers/gptq``, ``modifiers/pruning``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from paretune.engines.checkpoint.schemes import container, input_arguments, weight_arguments
from paretune.engines.recipes.recipe import Recipe, dense_modules, modules
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import LEGAL, Ruling
from paretune.spaces.model import Linear, ModelSpec

_PRUNERS = {"wanda": "WandaPruningModifier", "sparsegpt": "SparseGPTModifier"}
_ROUNDING = "QuantizationModifier"
_EMBEDDING = "embedding"
"""Rounded by a modifier of its own, which needs no data: beside inputs that are calibrated, 0.14.0.1 leaves the scales
of an embedding as they were allocated."""


class _WithoutAnchors(yaml.SafeDumper):
    """Lists that are named twice are written twice: a recipe is read by people too."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether ``data`` is written out each time."""
        del data
        return True


class LlmCompressor(Recipe):
    """Rounded to nearest, or GPTQ in sequence; pruned by Wanda or SparseGPT before."""

    name = "llm-compressor"
    file_name = "recipe.yaml"
    version = "0.14.0.1"
    methods: Mapping[str, str] = {"rtn": _ROUNDING, "minmax": _ROUNDING, "gptq": "GPTQModifier"}
    fallback = "QuantizationModifier (rounded to nearest between minimum and maximum)"

    def layer_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """What compressed-tensors has no scheme for, and modules that it does not know."""
        if linear.transposed:
            return self.refused("a Conv1D, and its schemes reach nn.Linear and nn.Embedding only")
        if choice.weight.dense and choice.activation is not None:
            return self.refused("rounded inputs beside dense weights: no container of its exports has that")
        if not choice.weight.dense and (
            container(choice.weight) is None or choice.weight.zero_point == "float"
        ):
            return self.refused(f"compressed-tensors has no scheme for {choice.weight.name}")
        if choice.sparsity is not None:
            return self._sparsity_ruling(linear, choice.sparsity)
        return LEGAL

    def kv_ruling(self, kv: KVFormat) -> Ruling:
        """FP8 under static scales, which the tool calibrates itself."""
        if kv.num_bits == 8 and kv.number_type == "float":
            return LEGAL
        return super().kv_ruling(kv)

    def written(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """One stage: pruning, then a modifier a method, the cache with the one that rounds."""
        by_method: dict[str, dict[str, LayerChoice]] = {}
        for layer, choice in config.layers.items():
            if not choice.weight.dense:
                name = self.methods.get(choice.method, _ROUNDING)
                by_method.setdefault(_EMBEDDING if layer == spec.embedding.name else name, {})[layer] = choice
        ignored = list(dense_modules(spec, config))
        steps: dict[str, Any] = {}
        for name in sorted(by_method, reverse=True):
            steps[name] = {"config_groups": _groups(spec, by_method[name]), "ignore": ignored}
        stage: dict[str, Any] = {}
        if _EMBEDDING in steps:
            stage["embedding_modifiers"] = {_ROUNDING: steps.pop(_EMBEDDING)}
        if "GPTQModifier" in steps:
            steps["GPTQModifier"]["actorder"] = None  # its default would order columns where nothing says so
        if config.kv != KVFormat():
            steps.setdefault(_ROUNDING, {"targets": []})["kv_cache_scheme"] = _CACHE
        stage |= _pruning(config) | ({"quantization_modifiers": steps} if steps else {})
        return yaml.dump({"default_stage": stage}, Dumper=_WithoutAnchors, sort_keys=False, width=110)

    def _sparsity_ruling(self, linear: Linear, sparsity: Sparsity) -> Ruling:
        if linear.role == "embedding":
            return self.refused("its pruning modifiers pass over embeddings")
        if sparsity.criterion not in _PRUNERS:
            return self.refused(f"it prunes by {' and '.join(_PRUNERS)}, not by {sparsity.criterion}")
        return LEGAL


_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


def _pruning(config: CompressionConfig) -> dict[str, Any]:
    """A group of modifiers for each sparsity: a group has room for one modifier of a kind."""
    found: dict[Sparsity, list[str]] = {}
    for layer, choice in config.layers.items():
        if choice.sparsity is not None:
            found.setdefault(choice.sparsity, []).append(layer)
    return {
        f"pruning_{index}_modifiers": {
            _PRUNERS[sparsity.criterion]: {
                "sparsity": sparsity.fraction,
                "mask_structure": "0:0" if sparsity.pattern == "unstructured" else sparsity.pattern,
                "targets": targets,
            }
        }
        for index, (sparsity, targets) in enumerate(found.items())
    }


def _groups(spec: ModelSpec, layers: Mapping[str, LayerChoice]) -> dict[str, Any]:
    """Layers of one scheme share a group."""
    found: dict[LayerChoice, list[str]] = {}
    for layer, choice in layers.items():
        scheme = choice.model_copy(update={"sparsity": None, "method": ""})
        found.setdefault(scheme, []).extend(modules(spec, layer))
    return {
        f"group_{index}": _scheme(choice, targets) for index, (choice, targets) in enumerate(found.items())
    }


def _scheme(choice: LayerChoice, targets: list[str]) -> dict[str, Any]:
    weights = {key: value for key, value in weight_arguments(choice.weight).items() if value is not None}
    if choice.weight.actorder != "none":
        weights["actorder"] = choice.weight.actorder
    inputs = {} if choice.activation is None else {"input_activations": input_arguments(choice.activation)}
    return {"targets": targets, "weights": weights, **inputs}
