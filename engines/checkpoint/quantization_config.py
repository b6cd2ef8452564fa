"""``quantization_config`` of ``config.json``: one group for every distinct scheme, targets by exact name."""

from __future__ import annotations

from typing import Any

from paretune.compressors.expert_names import expert_pattern, plain_name
from paretune.engines.checkpoint.layout import TRANSFORMERS, CheckpointLayout
from paretune.engines.checkpoint.weight_schemes import container, input_arguments, weight_arguments
from paretune.engines.runtime.candidate_model import kept_name
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, lies_unpacked


def quantization_config(
    spec: ModelSpec, config: CompressionConfig, layout: CheckpointLayout = TRANSFORMERS
) -> dict[str, Any] | None:
    """As compressed-tensors reads it, validated by its own schema; ``None`` for a candidate without codes.

    Layers that stay dense are listed under ``ignore``: some loaders refuse a linear that nothing mentions.
    """
    cache = layout.cache(config)
    schemes: dict[tuple[str, LayerChoice], list[str]] = {}
    ignored: list[str] = []
    for linear in kept_linears(spec, config):
        choice, targets = config.choice(linear.name), _targets(spec, config, linear, layout)
        if choice.weight.dense:
            ignored += targets if linear.role != "embedding" else []
            continue
        stored = container(choice.weight, unpacked=lies_unpacked(linear, choice))
        kind = f"{stored}{'-experts' if linear.role.startswith('expert') else ''}"
        schemes.setdefault((kind, choice.model_copy(update={"sparsity": None, "method": ""})), []).extend(
            targets
        )
    if not schemes and cache is None:
        return None
    formats = sorted({kind.removesuffix("-experts") for kind, _ in schemes})
    groups = {
        f"group_{index}": _scheme(choice, kind.removesuffix("-experts"), targets)
        for index, ((kind, choice), targets) in enumerate(schemes.items())
    }
    return _validated(
        {
            "config_groups": groups,
            "format": _format(formats),
            "quantization_status": "compressed",
            "ignore": ignored,
            "kv_cache_scheme": None if cache is None else _cache_arguments(cache),
        }
    )


def _format(formats: list[str]) -> str:
    """Of the checkpoint as a whole."""
    if not formats:
        return "dense"
    return formats[0] if len(formats) == 1 else "mixed-precision"


def _targets(
    spec: ModelSpec, config: CompressionConfig, linear: Linear, layout: CheckpointLayout
) -> list[str]:
    """Module paths of a layer in the pruned model; a tied head is a target beside its embedding."""
    if linear.role.startswith("expert"):
        path = kept_name(spec, config.pruned, linear.name.rpartition(".")[0])
        path = plain_name(spec, path) if layout.published_names else path
        return [expert_pattern(spec, linear, path, usual=layout.published_names)]
    names = [kept_name(spec, config.pruned, linear.name)]
    return [*names, spec.head.name] if linear.role == "embedding" and spec.tied else names


def _scheme(choice: LayerChoice, stored: str, targets: list[str]) -> dict[str, Any]:
    inputs = None if choice.activation is None else input_arguments(choice.activation)
    weights = weight_arguments(choice.weight)
    return {"targets": targets, "weights": weights, "input_activations": inputs, "format": stored}


def _cache_arguments(cache: KVFormat) -> dict[str, Any]:
    """Static scales by tensor: the checkpoint has them, or they are 1."""
    return {
        "num_bits": cache.num_bits,
        "type": cache.number_type,
        "strategy": "tensor",
        "dynamic": False,
        "symmetric": True,
    }


def _validated(values: dict[str, Any]) -> dict[str, Any]:
    import compressed_tensors
    from compressed_tensors.quantization import QuantizationConfig

    found: dict[str, Any] = QuantizationConfig.model_validate(values).model_dump(mode="json")
    return {**found, "quant_method": "compressed-tensors", "version": compressed_tensors.__version__}
