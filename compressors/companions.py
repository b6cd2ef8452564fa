"""Files that belong to a checkpoint beside its configuration and its weights: tokenizer, templates, licence."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from paretune.spaces.files import refuse_linked_out

LICENCES = ("LICENSE*", "LICENCE*", "LICENSES/*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""What goes wherever the weights go, in any container."""
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json",
    *LICENCES,
)  # fmt: skip
"""Patterns: hubs are asked for them, and exports copy what is there."""


def copy_companions(source: Path, folder: Path, patterns: Iterable[str] = COMPANIONS) -> None:
    """Copy the files that are there, each to the same place below ``folder``.

    Raises:
        ModelError: one is a link out of ``source``: an export is published, and its content may be private.
    """
    for file in companion_files(source, patterns):
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


def companion_files(source: Path, patterns: Iterable[str] = COMPANIONS) -> list[Path]:
    """The files of a model folder that go along with its weights.

    Raises:
        ModelError: one is a link out of the folder.
    """
    found = [file for pattern in patterns for file in sorted(source.glob(pattern)) if file.is_file()]
    return [refuse_linked_out(file, source) for file in found]
