"""From what a user types to a folder: ``embedded``, a local folder, or a hub id that is downloaded here."""

from __future__ import annotations

import re
from pathlib import Path

from paretune import demo
from paretune.compressors.companions import COMPANIONS
from paretune.pipeline.progress import note
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ModelError
from paretune.spaces.model import ModelSpec

EMBEDDED = "embedded"
"""The name of the model that ships with Paretune."""

_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")
_CONFIG_FILES = ["config.json", "hf_quant_config.json", "adapter_config.json"]
_MODEL_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "README.md", *COMPANIONS]


def model_folder(model: str, revision: str | None = None, config_only: bool = False) -> Path:
    """The folder of a model.

    Args:
        model: ``embedded``, a folder, or a hub id such as ``Qwen/Qwen3-0.6B``.
        revision: branch, tag or commit of a hub id.
        config_only: download no weights.

    Raises:
        ModelError: no such folder, not a hub id, or the download failed.
    """
    if model == EMBEDDED:
        return demo.MODEL
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "run.json").is_file() and not (folder / "config.json").is_file():
            raise ModelError(f"model {model!r}", "is a run folder", f"Name its model, or {model}/export/NAME")
        return folder
    if not is_hub_id(model) or folder.is_file():
        raise ModelError(
            f"model {model!r}",
            "is a file" if folder.is_file() else "is neither a folder nor a hub id",
            f"Give a folder, OWNER/NAME, or {EMBEDDED!r}",
        )
    note(f"there is no folder {model} here; asking the hub for the model of that name")
    return _download(model, revision, _CONFIG_FILES if config_only else _MODEL_FILES)


def is_hub_id(model: str) -> bool:
    """Whether a word reads OWNER/NAME; ``./name`` and ``../name`` are paths."""
    return bool(_HUB_ID.match(model))


def is_model(word: str) -> bool:
    """Whether a word names a model, as far as can be told without asking anybody."""
    return word == EMBEDDED or Path(word).expanduser().is_dir() or is_hub_id(word)


def read_spec(model: str, revision: str | None = None) -> ModelSpec:
    """The specification of a model, from ``config.json`` alone."""
    return read_model(model_folder(model, revision, config_only=True), source=model, revision=revision)


def _download(model: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"model {model!r}",
            f"could not be read from the hub ({type(error).__name__}: {str(error).splitlines()[0][:120]})",
            "Check the id, the network and your access, or give a local folder",
        ) from error
