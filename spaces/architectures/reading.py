"""``config.json`` in, :class:`~paretune.spaces.model.ModelSpec` out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.spaces.architectures.fields import ConfigFields, Dtype
from paretune.spaces.architectures.headers import present_files
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout
from paretune.spaces.architectures.registry import ARCHITECTURES, find_architecture
from paretune.spaces.architectures.unknown import read_unknown
from paretune.spaces.architectures.weights import check_weights, stored_dtype
from paretune.spaces.errors import ModelError
from paretune.spaces.files import CONFIGURATION, read_object, refusing
from paretune.spaces.model import CacheLayer, ModelSpec


def read_model(folder: Path, source: str | None = None, revision: str | None = None) -> ModelSpec:
    """The specification of the model in ``folder``; weights need not be there.

    Args:
        folder: holds ``config.json``.
        source: what the user named (a folder or a hub id); the folder when left out.
        revision: of a hub id.

    Raises:
        ModelError: no or unreadable configuration, a quantized model, an unknown architecture.
    """
    file = folder / "config.json"
    values = read_object(file, CONFIGURATION)
    with refusing(file, CONFIGURATION):
        return _read(values, file, folder, source, revision)


def _read(
    values: dict[str, Any], file: Path, folder: Path, source: str | None, revision: str | None
) -> ModelSpec:
    _refuse_quantized(values, file)
    given: dict[str, Any] = {"source": str(folder) if source is None else source, "revision": revision}
    architecture = find_architecture(str(values.get("model_type")))
    if architecture is None:
        fields = ConfigFields(values, str(file), {})
        return _from_headers(folder, fields, {**given, "dtype": _dtype(folder, fields)})
    fields = ConfigFields(values, str(file), architecture.defaults)
    geometry, layout = architecture.read(fields)
    _check_geometry(geometry, file)
    given["dtype"] = _dtype(folder, fields, architecture.nested)
    return _specify(architecture, fields, geometry, layout, given)


def _dtype(folder: Path, fields: ConfigFields, nested: str = "") -> Dtype:
    """How the weights are stored: as they say themselves, else as the configuration says."""
    said = fields.dtype() or (fields.nested(nested, {}).dtype() if nested else None)
    return stored_dtype(folder) or said or "float32"


def _from_headers(folder: Path, fields: ConfigFields, given: dict[str, Any]) -> ModelSpec:
    """A model of a family that is not known by name."""
    model_type = str(fields.values.get("model_type"))
    if not present_files(folder):
        raise _unknown(model_type, fields.where)
    names = fields.values.get("architectures") or (model_type,)
    geometry, layout, cache = read_unknown(fields, check_weights(folder))
    family = Architecture("headers", (model_type,), (str(names[0]),), {}, lambda _: (geometry, layout))
    return _specify(family, fields, geometry, layout, {**given, "cache": cache})


def _refuse_quantized(values: dict[str, Any], file: Path) -> None:
    nested = values.get("text_config") or {}
    for key in ("quantization_config", "compression_config"):
        found = values.get(key) or nested.get(key)
        if found:
            method = found.get("quant_method", "an unnamed method") if isinstance(found, dict) else found
            raise ModelError(
                f"{key} of {file}",
                f"the model is already quantized with {method}",
                "Start from the unquantized checkpoint that it was made from",
            )


def _unknown(model_type: str, where: str) -> ModelError:
    known = sorted(name for architecture in ARCHITECTURES for name in architecture.model_types)
    return ModelError(
        f"model_type {model_type!r} in {where}",
        "is not a known architecture, and there are no safetensors to read it from",
        f"Known: {', '.join(known)}; or put the weights beside config.json",
    )


def _check_geometry(geometry: Geometry, file: Path) -> None:
    if geometry.heads % geometry.kv_heads:
        raise ModelError(
            f"{geometry.heads} heads and {geometry.kv_heads} key-value heads in {file}",
            "the first must be a multiple of the second",
            "Check that the file belongs to this model",
        )


def _class_name(architecture: Architecture, fields: ConfigFields) -> str:
    """The class in ``architectures``, which must have a language-model head."""
    names = fields.values.get("architectures") or architecture.architectures
    if names[0] not in architecture.architectures:
        raise ModelError(
            f"architecture {names[0]} in {fields.where}",
            "must be a language model with a head",
            f"Known for {architecture.family}: {', '.join(architecture.architectures)}",
        )
    return str(names[0])


def _specify(
    architecture: Architecture,
    fields: ConfigFields,
    geometry: Geometry,
    layout: Layout,
    given: dict[str, Any],
) -> ModelSpec:
    cache = tuple(
        CacheLayer(kv_heads=geometry.kv_heads, head_dim=geometry.head_dim, window=window)
        for window in geometry.windows
    )
    return ModelSpec(
        **{"cache": cache, **given},
        model_type=str(fields.values["model_type"]),
        architecture=_class_name(architecture, fields),
        family=architecture.family,
        block_path=layout.block_path,
        blocks=geometry.blocks,
        hidden_size=geometry.hidden,
        heads=geometry.heads,
        kv_heads=geometry.kv_heads,
        head_dim=geometry.head_dim,
        ffn_size=geometry.ffn,
        vocabulary=geometry.vocabulary,
        context=geometry.context,
        tied=geometry.tied,
        experts=geometry.experts,
        active_experts=geometry.active_experts,
        linears=tuple(layout.linears),
        fixed=tuple(layout.fixed),
        uncuttable=tuple(layout.uncuttable),
        heads_divide_hidden=architecture.heads_divide_hidden,
    )
