"""``config.json`` in, :class:`~spaces.model.ModelSpec` out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spaces.architectures.fields import ConfigFields, Dtype
from spaces.architectures.headers import INDEX, SINGLE
from spaces.architectures.layout import Architecture, Geometry, Layout
from spaces.architectures.registry import ARCHITECTURES, find_architecture
from spaces.architectures.weights import check_weights
from spaces.errors import ModelError
from spaces.model import CacheLayer, ModelSpec


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
    values = _load(file)
    _refuse_quantized(values, file)
    architecture = find_architecture(str(values.get("model_type")))
    if architecture is None:
        raise _unknown(values, file)
    fields = ConfigFields(values, str(file), architecture.defaults)
    geometry, layout = architecture.read(fields)
    _check_geometry(geometry, file)
    return _specify(
        architecture,
        fields,
        geometry,
        layout,
        {
            "source": str(folder) if source is None else source,
            "revision": revision,
            "dtype": _dtype(fields, architecture) or stored_dtype(folder) or "float32",
        },
    )


def _dtype(fields: ConfigFields, architecture: Architecture) -> Dtype | None:
    nested = fields.nested(architecture.nested, {}).dtype() if architecture.nested else None
    return fields.dtype() or nested


def stored_dtype(folder: Path) -> Dtype | None:
    """The type that most numbers of the checkpoint have, ``None`` where there are no weights."""
    if not ((folder / INDEX).is_file() or (folder / SINGLE).is_file()):
        return None
    known: dict[str, Dtype] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    count = dict.fromkeys(known, 0)
    for tensor in check_weights(folder):
        if tensor.dtype in count:
            count[tensor.dtype] += tensor.size_bytes
    most = max(count, key=lambda name: count[name])
    return known[most] if count[most] else None


def _load(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"model folder {file.parent}",
            "must hold a readable config.json",
            "Name a folder in Hugging Face format, or a hub id",
        ) from error
    except ValueError as error:
        raise ModelError(f"{file}", f"is not JSON ({error})", "Copy or download it again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file}", "must hold a JSON object", "Copy or download it again")
    return values


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


def _unknown(values: dict[str, Any], file: Path) -> ModelError:
    known = sorted(name for architecture in ARCHITECTURES for name in architecture.model_types)
    return ModelError(
        f"model_type {values.get('model_type')!r} in {file}",
        "is not a known architecture",
        f"Known: {', '.join(known)}",
    )


def _check_geometry(geometry: Geometry, file: Path) -> None:
    if geometry.heads % geometry.kv_heads:
        raise ModelError(
            f"{geometry.heads} heads and {geometry.kv_heads} key-value heads in {file}",
            "the first must be a multiple of the second",
            "Check that the file belongs to this model",
        )


def _specify(
    architecture: Architecture,
    fields: ConfigFields,
    geometry: Geometry,
    layout: Layout,
    given: dict[str, Any],
) -> ModelSpec:
    names = fields.values.get("architectures") or architecture.architectures[:1]
    if names[0] not in architecture.architectures:
        raise ModelError(
            f"architecture {names[0]} in {fields.where}",
            "must be a language model with a head",
            f"Known for {architecture.family}: {', '.join(architecture.architectures)}",
        )
    return ModelSpec(
        **given,
        model_type=str(fields.values["model_type"]),
        architecture=str(names[0]),
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
        cache=tuple(
            CacheLayer(kv_heads=geometry.kv_heads, head_dim=geometry.head_dim, window=window)
            for window in geometry.windows
        ),
        uncuttable=tuple(layout.uncuttable),
    )
