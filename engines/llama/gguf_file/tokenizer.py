"""A Hugging Face tokenizer as the keys of a GGUF file: byte-level BPE whose pre-tokenizer llama.cpp knows.

Source of the names of pre-tokenizers: ``llama-vocab.cpp`` of llama.cpp, which has a splitter under each name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paretune.spaces.errors import EngineError
from paretune.spaces.files import FileKind, read_json, read_object, read_text, refusing

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
"""Patterns that split text before merging, and llama.cpp's name for each."""


def add_tokenizer(writer: Any, folder: Path, vocabulary: int) -> None:
    """Tokens, merges and special tokens; ``none`` where the folder has no tokenizer, or one that merges nothing.

    Args:
        writer: a ``gguf.GGUFWriter``.
        folder: of the model.
        vocabulary: rows of the embedding; tokens that the tokenizer lacks are written as unused.

    Raises:
        EngineError: a tokenizer of a kind that would be read as another, or of another model.
    """
    file = folder / _FILE
    found = _tokenizer(folder)
    if found is None:
        writer.add_tokenizer_model("none")
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter(found, file))
    _add_tokens(writer, found, vocabulary, file)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in found["model"]["merges"]]
    )
    _add_special(writer, folder, found)


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """What a user has to know of the tokenizer that is written for a model's folder.

    Raises:
        EngineError: see :func:`add_tokenizer`.
    """
    if _tokenizer(folder) is not None:
        return ()
    return ("the GGUF file has no tokenizer: llama.cpp serves token ids, and no text",)


def read_splitter(folder: Path) -> str:
    """Llama.cpp's name of the pre-tokenizer of a model's folder; empty where there is no tokenizer.

    Raises:
        EngineError: see :func:`splitter`.
    """
    found = _tokenizer(folder)
    return "" if found is None else splitter(found, folder / _FILE)


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    """``tokenizer.json``; ``None`` without merges, since llama.cpp loads no such vocabulary.

    Raises:
        EngineError: the folder has a tokenizer in other files alone: text would be cut without it.
    """
    file = folder / _FILE
    if file.is_file():
        found = read_object(file, _TOKENIZER)
        with refusing(file, _TOKENIZER):
            return found if found and found.get("model", {}).get("merges", True) else None
    if others := [name for name in _OTHER_FILES if (folder / name).is_file()]:
        raise EngineError(
            f"tokenizer {folder / others[0]}",
            f"has no {_FILE} beside it, the only file that is read here",
            f"Write {_FILE} (save_pretrained of transformers does), or use another engine",
        )
    return None


def splitter(found: dict[str, Any], file: Path) -> str:
    """Llama.cpp's name of the pre-tokenizer in ``tokenizer.json``.

    Raises:
        EngineError: it is not byte-level BPE, changes text before it is split, or splits in an unknown way.
    """
    model, before = found["model"], found.get("pre_tokenizer") or {}
    kind = "BPE with byte_fallback" if model.get("byte_fallback") else model.get("type")
    if kind != "BPE":
        raise EngineError(
            f"tokenizer {file}",
            f"is {kind}; byte-level BPE without byte_fallback is the only kind that is written as GGUF",
            "Use another engine",
        )
    normalizer = (found.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise EngineError(
            f"tokenizer {file}",
            f"normalizes text by {normalizer}, which llama.cpp does not",
            "Use another engine",
        )
    parts = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    if any(part.get("add_prefix_space") for part in parts):
        # Llama.cpp reads tokenizer.ggml.add_space_prefix for SentencePiece alone.
        raise EngineError(
            f"tokenizer {file}",
            "puts a space before a text (add_prefix_space), which llama.cpp does not for byte-level BPE",
            "Use another engine",
        )
    if [part.get("type") for part in parts] == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if [part.get("type") for part in parts] == ["Split", "ByteLevel"]:
        pattern = parts[0]["pattern"].get("Regex", "")
        if pattern in _PATTERNS:
            return _PATTERNS[pattern]
    raise EngineError(
        f"tokenizer {file}",
        f"splits text in a way that has no name here ({json.dumps(before)[:120]})",
        "Use another engine, or add the pattern and llama.cpp's name for it",
    )


def _add_tokens(writer: Any, found: dict[str, Any], vocabulary: int, file: Path) -> None:
    import gguf

    tokens = [f"[UNUSED{index}]" for index in range(vocabulary)]
    kinds = [gguf.TokenType.UNUSED] * vocabulary
    named = [(index, text, gguf.TokenType.NORMAL) for text, index in found["model"]["vocab"].items()]
    for extra in found.get("added_tokens", ()):
        special = gguf.TokenType.CONTROL if extra["special"] else gguf.TokenType.USER_DEFINED
        named.append((extra["id"], extra["content"], special))
    for index, text, kind in named:
        if index >= vocabulary:
            raise EngineError(
                f"token {text!r} of {file}",
                f"has id {index}, and the model's embedding {vocabulary} rows",
                "Use the tokenizer that the model was trained with, or give the embedding more rows",
            )
        tokens[index], kinds[index] = text, kind
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)


def _add_special(writer: Any, folder: Path, found: dict[str, Any]) -> None:
    settings = _read(folder / "tokenizer_config.json")
    ids = {token["content"]: token["id"] for token in found.get("added_tokens", ())} | found["model"]["vocab"]

    def named(role: str) -> int | None:
        value = settings.get(f"{role}_token")
        text = value.get("content") if isinstance(value, dict) else value
        return None if text is None else ids.get(text)

    first = named("bos")
    for number, add in (
        (first, writer.add_bos_token_id),
        (named("eos"), writer.add_eos_token_id),
        (named("pad"), writer.add_pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(first is not None and _begins_with(folder, first))
    template = settings.get("chat_template")
    file = folder / "chat_template.jinja"
    template = read_text(file, _TOKENIZER) if file.is_file() else template
    if isinstance(template, str):
        writer.add_chat_template(template)


def _begins_with(folder: Path, token: int) -> bool:
    """Whether the tokenizer itself puts the token before a text."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / _FILE)).encode("a").ids
    return bool(ids) and ids[0] == token


def _read(file: Path) -> dict[str, Any]:
    found = read_json(file, _TOKENIZER) if file.is_file() else {}
    return found if isinstance(found, dict) else {}
