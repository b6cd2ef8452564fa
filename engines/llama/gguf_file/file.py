"""Writes a GGUF file: what llama.cpp's converter made of the dense model, with ggml's blocks where layers have some."""

from __future__ import annotations

import tempfile
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.engines.llama.gguf_file.conversion import converted
from paretune.engines.llama.gguf_file.tensors import FLOATS, replaced_tensors
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.files import sha256_of_file
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider

_OWN = (
    "GGUF.version",
    "GGUF.tensor_count",
    "GGUF.kv_count",
    "general.architecture",
    "general.name",
    "general.license",
)
"""Fields that the writer sets itself."""


def write_gguf(
    spec: ModelSpec,
    bank: WeightProvider,
    config: CompressionConfig,
    source: Path,
    file: Path,
    *,
    name: str,
    floats: str | None = None,
    licence: str | None = None,
) -> int:
    """Write the candidate into ``file`` and return the bytes of its tensors.

    No model is run and one tensor is in memory at a time; the dense model takes room for temporary files once more. The
    file is written in place: write it into a folder that takes its name when it is whole.

    Args:
        spec: of the dense model.
        bank: with the weights.
        config: of the candidate, with block types of ggml or nothing at every layer.
        source: folder of the dense model.
        file: to write.
        name: of the model in the file.
        floats: ggml type of layers that stay as they are; the model's dtype if left out.
        licence: of the base model.

    Raises:
        EngineError: llama.cpp's converter does not take the model, or stores a quantized layer in a way of its own.
    """
    import gguf

    reader = gguf.GGUFReader(_dense(bank, config, source, floats or FLOATS[spec.dtype]))
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(file, architecture)
    try:
        writer.add_name(name)
        if licence is not None:
            writer.add_license(licence)
        for field in reader.fields.values():
            if field.name not in _OWN:
                kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
        if f"{architecture}.vocab_size" not in reader.fields:
            writer.add_vocab_size(spec.vocabulary)  # without a tokenizer nothing else says it
        return _write_tensors(writer, reader, replaced_tensors(spec, bank, config, reader, architecture))
    finally:
        writer.close()


def _dense(bank: WeightProvider, config: CompressionConfig, source: Path, floats: str) -> Path:
    """The dense model, or the pruned one with nothing quantized, as the converter writes it."""
    from paretune.compressors.loading import model_hash
    from paretune.engines.checkpoint.writer import write_checkpoint
    from paretune.engines.engine import ExportCard

    key = f"{model_hash(source)} {_tokenizer_hash(source)}"
    if config.pruned.whole:
        return converted(source, key, floats)
    as_came = copy(bank)  # a GGUF file has norms in float32, the checkpoint that it is converted from has not
    as_came.spec = bank.spec.model_copy(update={"fixed_dtype_bytes": None})
    with tempfile.TemporaryDirectory(prefix="paretune-pruned-") as place:
        plain = CompressionConfig(pruned=config.pruned)
        folder = write_checkpoint(as_came, plain, Path(place) / source.name, ExportCard(source, source.name))
        return converted(folder, f"{key} {config.pruned.model_dump_json()}", floats)


def _tokenizer_hash(source: Path) -> str:
    file = source / "tokenizer.json"
    return sha256_of_file(file) if file.is_file() else ""


def _write_tensors(writer: Any, reader: Any, replaced: dict[str, Any]) -> int:
    import gguf

    for tensor in reader.tensors:
        own = replaced.get(tensor.name)
        shape = tuple(int(size) for size in reversed(tensor.shape))
        kind = tensor.tensor_type if own is None else gguf.GGMLQuantizationType(own.number)
        count = int(tensor.n_bytes) if own is None else own.num_bytes
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), count, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    written = 0
    for tensor in reader.tensors:
        own = replaced.get(tensor.name)
        value = np.asarray(tensor.data) if own is None else own.made()
        writer.write_tensor_data(np.ascontiguousarray(value).view(np.uint8))
        written += value.nbytes
    return written
