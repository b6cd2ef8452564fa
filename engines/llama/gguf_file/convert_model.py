"""Runs llama.cpp's own converter on a model's folder: ``python convert_model.py REQUEST.json``.

It imports nothing of ours. The request is a JSON object: ``converter`` (the folder of ``convert_hf_to_gguf.py``),
``model`` (a folder), ``name`` (of the model), ``file`` (to write), ``floats`` (``f32``, ``f16``, ``bf16``),
``tokenizer`` (``none``, ``bytes`` for byte-level BPE, or empty), ``splitter`` (llama.cpp's name for how text is
split, for tokenizers that the converter has not seen), ``vocabulary`` (write no tensors), and ``answer``, the file
that gets ``{"architecture": ...}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def converter_of(model: Path, tokenizer: str, splitter: str) -> Any:
    """The converter's class for a model, told what it cannot know of the tokenizer."""
    from conversion import (  # type: ignore[import-not-found]
        ModelBase,
        ModelType,
        get_model_architecture,
        get_model_class,
    )

    values = ModelBase.load_hparams(model, False)
    found = get_model_class(get_model_architecture(values, ModelType.TEXT))

    class Converter(found):  # type: ignore[misc, valid-type]
        model_arch = found.model_arch  # the converter wants it of every class

        def set_vocab(self) -> None:
            if tokenizer == "none":
                self._set_vocab_none()
            else:
                super().set_vocab()

        def _set_vocab_llama_hf(self) -> None:
            # A byte-level vocabulary with byte_fallback is no SentencePiece, though it is taken for one.
            if tokenizer == "bytes":
                raise FileNotFoundError("byte-level BPE")
            super()._set_vocab_llama_hf()

        def get_vocab_base_pre(self, given: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(given))
            except NotImplementedError:
                if splitter:
                    return splitter
                raise

    return Converter


def main(file: Path) -> None:
    """Convert."""
    request = json.loads(file.read_text(encoding="utf-8"))
    sys.path[:0] = [str(Path(request["converter"]) / "gguf-py"), request["converter"]]
    import gguf
    import torch

    kinds = gguf.LlamaFileType
    floats = {"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "bf16": kinds.MOSTLY_BF16}[request["floats"]]
    model = Path(request["model"])
    with torch.inference_mode():
        converter = converter_of(model, request["tokenizer"], request["splitter"])
        made = converter(model, floats, Path(request["file"]), model_name=request["name"])
        (made.write_vocab if request["vocabulary"] else made.write)()
    answer = {"architecture": gguf.MODEL_ARCH_NAMES[made.model_arch]}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
