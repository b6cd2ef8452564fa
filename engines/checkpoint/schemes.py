"""Formats in the words of compressed-tensors: containers, ``QuantizationArgs``, a candidate's ``quantization_config``.

One group for every distinct scheme, targets by exact name. How a checkpoint differs by who loads it is a
:class:`CheckpointLayout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paretune.compressors.expert_names import expert_pattern, plain_name
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.formats import WeightFormat
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, kept_name, lies_unpacked


@dataclass(frozen=True)
class CheckpointLayout:
    """What a loader wants besides the tensors themselves.

    Attributes:
        engine: registered name of the engine that loads it.
        published_names: whether quantized mixtures, too, have the names that the family publishes (every expert's
            linears alone); ``transformers`` finds them under the names of its own modules.
        cache_scheme: whether the loader does what ``kv_cache_scheme`` says.
    """

    engine: str
    published_names: bool = False
    cache_scheme: bool = False

    def cache(self, config: CompressionConfig) -> KVFormat | None:
        """The format that ``kv_cache_scheme`` has to name, if any."""
        return config.kv if self.cache_scheme and config.kv.num_bits != 16 else None


TRANSFORMERS = CheckpointLayout("transformers")
VLLM = CheckpointLayout("vllm", published_names=True, cache_scheme=True)


PACKED, UNPACKED = "pack-quantized", "int-quantized"
_FLOATS = {
    (8, "model"): "float-quantized",
    (8, "exponent"): "mxfp8-quantized",
    (4, "exponent"): "mxfp4-pack-quantized",
    (4, "fp8"): "nvfp4-pack-quantized",
}


def container(weight: WeightFormat, unpacked: bool = False) -> str | None:
    """The container of a format that is not dense; ``None`` if compressed-tensors has none.

    Args:
        weight: the format.
        unpacked: whether 8-bit integers lie in place of the weight.
    """
    if weight.number_type == "int":
        return UNPACKED if unpacked else PACKED
    return _FLOATS.get((weight.num_bits, weight.scale)) if weight.number_type == "float" else None


def weight_arguments(weight: WeightFormat) -> dict[str, Any]:
    """The format as ``QuantizationArgs``."""
    values: dict[str, Any] = {
        "num_bits": weight.num_bits,
        "type": weight.number_type,
        "symmetric": weight.symmetric,
        "strategy": "channel" if weight.group_size is None else "group",
        "group_size": weight.group_size,
    }
    if weight.block_rows == 0:
        values["strategy"] = "tensor"
    elif weight.block_rows != 1:
        size = weight.group_size
        values |= {"strategy": "block", "group_size": None, "block_structure": [weight.block_rows, size]}
    if weight.scale == "fp8":
        values |= {"strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
    elif weight.scale == "exponent":
        values["scale_dtype"] = "torch.uint8"
    return values


def input_arguments(inputs: ActivationFormat) -> dict[str, Any]:
    """The format of a linear's input as ``QuantizationArgs``, without scales."""
    values: dict[str, Any] = {
        "num_bits": inputs.num_bits,
        "type": inputs.number_type,
        "symmetric": True,
        "strategy": inputs.strategy,
        "dynamic": inputs.dynamic,
    }
    if inputs.group_size is not None:
        values["group_size"] = inputs.group_size
    if inputs.scale == "fp8":
        values |= {"strategy": "tensor_group", "dynamic": "local", "scale_dtype": "torch.float8_e4m3fn"}
    elif inputs.scale == "exponent":
        values["scale_dtype"] = "torch.uint8"
    return values


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
