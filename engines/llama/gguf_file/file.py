"""Writes a GGUF file: header, keys and table of tensors first, then one tensor after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.llama.gguf_file.hyperparameters import add_hyperparameters, rope_factors
from paretune.engines.llama.gguf_file.names import ARCHITECTURES, architecture
from paretune.engines.llama.gguf_file.tensors import GgufTensor, GgufTensors
from paretune.engines.llama.gguf_file.tokenizer import add_tokenizer
from paretune.spaces.architectures import pruned_config
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.files import CONFIGURATION, read_object
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider

__all__ = ["ARCHITECTURES", "write_gguf"]


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

    No model is run and one tensor is in memory at a time. The file is written in place: write it into a folder that
    takes its name when it is whole.

    Args:
        spec: of the dense model.
        bank: with the weights.
        config: of the candidate, with block types of ggml or nothing at every layer.
        source: folder of the dense model: ``config.json`` and tokenizer.
        file: to write.
        name: of the model in the file.
        floats: ggml type of layers that stay as they are; the model's dtype if left out.
        licence: of the base model.

    Raises:
        EngineError: a family, a rotary embedding or a tokenizer that llama.cpp would read otherwise.
    """
    import gguf

    values = read_object(source / "config.json", CONFIGURATION)
    cut: Mapping[str, Any] = pruned_config(values, spec, config.pruned)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture(spec)])
    try:
        writer.add_name(name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        if licence is not None:
            writer.add_license(licence)
        add_hyperparameters(writer, spec, cut)
        add_tokenizer(writer, source, spec.vocabulary)
        return _write_tensors(writer, GgufTensors(spec, bank, config, floats), rope_factors(spec, cut))
    finally:
        writer.close()


def _write_tensors(writer: Any, tensors: GgufTensors, factors: Any) -> int:
    import numpy as np

    announced = tensors.announced()
    if factors is not None:
        _announce(writer, GgufTensor("rope_freqs.weight", factors.shape, "f32"))
    for tensor in announced:
        _announce(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    written = 0
    for tensor, value in zip(announced, tensors.made(), strict=True):
        if value.nbytes != tensor.num_bytes:
            raise TypeError(f"{tensor.name} has {value.nbytes} bytes, {tensor.num_bytes} were announced")
        writer.write_tensor_data(np.ascontiguousarray(value).view(np.uint8))
        written += value.nbytes
    return written


def _announce(writer: Any, tensor: GgufTensor) -> None:
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType(tensor.number)
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, raw_dtype=kind)
