"""From what a user names after ``--checkpoint`` to something that can be judged beside a front."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from paretune.compressors.loading import load_tokenizer, model_hash, read_model_config, told_by_transformers
from paretune.engines import find_engine
from paretune.engines.manifest import MANIFEST, check_files
from paretune.evaluators.gguf_model import gguf_facts, same_tokens
from paretune.evaluators.window_texts import tokenize_alike
from paretune.pipeline.models import model_folder
from paretune.spaces.architectures import read_model
from paretune.spaces.architectures.headers import read_header, weight_files
from paretune.spaces.architectures.weights import stored_dtype
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import EngineError, ModelError, ParetuneError, RunError
from paretune.spaces.files import CONFIGURATION, FileKind, read_object, sha256_of_file, write_json
from paretune.spaces.measurement import Measurement
from paretune.spaces.size import memory_bytes
from paretune.spaces.target import Workload

_GGUF = FileKind("GGUF file", ModelError, "Name a file that can be read")
_TAKEN = "Give a folder that transformers loads (config.json and safetensors), a hub id, or a .gguf file"


@dataclass(frozen=True)
class Checkpoint:
    """One model to compare.

    Attributes:
        label: of its row.
        source: as the user named it.
        folder: that holds it.
        gguf: the file, where llama.cpp is to run it; else transformers loads the folder.
    """

    label: str
    source: str
    folder: Path
    gguf: Path | None = None


@dataclass(frozen=True)
class CheckpointFacts:
    """What is known of a checkpoint before it is loaded.

    Attributes:
        rows: of its vocabulary.
        context: longest sequence, ``None`` if it does not say.
        weight_bytes: of all tensors.
        hash: SHA-256 of what makes its numbers.
        numbers: how weights are stored, in words.
        loaded_by: library and version that will run it.
        shape: hidden channels and blocks, ``None`` where it does not say.
        tokens: of a GGUF file, in order.
    """

    rows: int
    context: int | None
    weight_bytes: int
    hash: str
    numbers: str
    loaded_by: str
    shape: tuple[int | None, int | None] = (None, None)
    tokens: tuple[str, ...] = ()


def name_checkpoints(sources: Sequence[str], labels: Sequence[str]) -> list[Checkpoint]:
    """Where each is, and what it will be called: its own name if no labels are given.

    Raises:
        RunError: not as many labels as checkpoints, or one twice.
        ModelError: something that is no checkpoint.
    """
    if labels and len(labels) != len(sources):
        raise RunError(
            f"{len(labels)} labels for {len(sources)} checkpoints",
            "each checkpoint has one label, in the same order",
            "Repeat --label as often as --checkpoint, or leave it out",
        )
    found = [_locate(source) for source in sources]
    names = list(labels) or [_own_name(source) for source in sources]
    twice = [name for name in names if names.count(name) > 1 or not name.strip()]
    if twice:
        raise RunError(
            f"label {twice[0]!r}", "must be given, and to one checkpoint", "Tell them apart with --label"
        )
    return [
        Checkpoint(name, source, folder, gguf)
        for name, source, (folder, gguf) in zip(names, sources, found, strict=True)
    ]


def read_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    """What files and headers say; an export of ours is first held against its hashes.

    Raises:
        ModelError: ``transformers`` does not know it, it needs code of its own, or a file is absent or cut short.
        VerificationError: an export whose files are not those that were written.
        EngineError: llama.cpp is not here.
    """
    if (checkpoint.folder / MANIFEST).is_file():
        check_files(checkpoint.folder)
    return _gguf(checkpoint.gguf) if checkpoint.gguf else _transformers(checkpoint.folder)


def memory_bytes_of(folder: Path, weight_bytes: int, workload: Workload) -> Measurement:
    """Memory at a workload: the stored weights, and a cache and activations of 16 bits.

    Raises:
        ParetuneError: an architecture that cannot be read as a :class:`~paretune.spaces.model.ModelSpec`.
    """
    values = read_object(folder / "config.json", CONFIGURATION)
    for part in (values, values.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            part.pop(key, None)
    # What is searched must be unquantized; what is only counted need not, and its shapes are in the same keys.
    with tempfile.TemporaryDirectory(prefix="paretune-") as scratch:
        plain = Path(scratch)
        write_json(plain / "config.json", values)
        spec = read_model(plain, source=str(folder))
    total = memory_bytes(spec, DENSE_CONFIG, workload, weights=weight_bytes)
    return Measurement(value=float(total), unit="B", by="size")


def _locate(source: str) -> tuple[Path, Path | None]:
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, path
    if path.is_file():
        raise ModelError(f"file {path}", "is no GGUF file", _TAKEN)
    folder = model_folder(source)
    if (folder / "config.json").is_file():
        return folder, None
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return folder, files[0]
    raise ModelError(
        f"folder {folder}",
        f"is no checkpoint: it has no config.json and {len(files) or 'no'} GGUF files",
        _TAKEN,
    )


def _own_name(source: str) -> str:
    path = Path(source).expanduser()
    if not path.exists():
        return source
    return path.stem if path.is_file() else path.resolve().name


def _transformers(folder: Path) -> CheckpointFacts:
    config = _configuration(folder)
    files = weight_files(folder)
    text = config.get_text_config()
    return CheckpointFacts(
        rows=int(text.vocab_size),
        context=getattr(text, "max_position_embeddings", None),
        weight_bytes=sum(tensor.size_bytes for file in files for tensor in read_header(file)),
        hash=model_hash(folder),
        numbers=_numbers(folder, config),
        loaded_by=f"transformers {transformers.__version__}",
        shape=(getattr(text, "hidden_size", None), getattr(text, "num_hidden_layers", None)),
    )


def _configuration(folder: Path) -> Any:
    """As ``transformers`` reads it; code inside the checkpoint is never run."""
    try:
        with told_by_transformers(folder):
            return read_model_config(folder)[0]
    except ModelError as error:
        if "auto_map" not in read_object(folder / "config.json", CONFIGURATION):
            raise
        raise ModelError(
            f"model folder {folder}",
            "brings code of its own, which is never run here",
            "Use a version of the model whose architecture is part of transformers",
        ) from error


def _numbers(folder: Path, config: Any) -> str:
    found = getattr(config, "quantization_config", None)
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    if method is not None:
        return str(getattr(method, "value", method))
    return stored_dtype(folder) or "numbers of unknown type"


def _gguf(file: Path) -> CheckpointFacts:
    engine = find_engine("llama.cpp")
    able = engine.available()
    if not able:
        raise EngineError(f"GGUF file {file}", "llama.cpp runs it, which is not here", able.reason)
    found = gguf_facts(file)
    return CheckpointFacts(
        rows=len(found.tokens),
        context=None,
        weight_bytes=found.weight_bytes,
        hash=sha256_of_file(file, _GGUF),
        numbers=found.numbers,
        loaded_by=f"llama.cpp {engine.version()}",
        shape=found.shape,
        tokens=found.tokens,
    )


def own_tokenizer(
    checkpoint: Checkpoint, facts: CheckpointFacts, tokenizer: Any, texts: Sequence[str]
) -> Any | None:
    """The checkpoint's tokenizer where it is another than the run's, ``None`` where its tokens mean the same.

    Raises:
        ModelError: it has none; or a GGUF file has other tokens.
    """
    if checkpoint.gguf is None:
        own = load_tokenizer(checkpoint.folder)
        return None if tokenize_alike(tokenizer, own, texts) else own
    if not same_tokens(tokenizer, facts.tokens):
        raise ModelError(
            f"GGUF file {checkpoint.gguf}",
            "has other tokens than the run's model, or names none",
            "Compare the checkpoint that it was made from",
        )
    return None


def memory_or_note(checkpoint: Checkpoint, facts: CheckpointFacts, workload: Workload) -> Measurement | str:
    """Its memory, or why it is not known."""
    if checkpoint.gguf is not None:
        return "memory is not known for GGUF files"
    try:
        return memory_bytes_of(checkpoint.folder, facts.weight_bytes, workload)
    except ParetuneError as error:
        return f"memory is not known: {error.value}: {error.rule}"
