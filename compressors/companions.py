"""Files that belong to a checkpoint beside its configuration and its weights: tokenizer, templates, licence."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

LICENCES = ("LICENSE*", "LICENCE*", "LICENSES/*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""What goes wherever the weights go, in any container."""
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    *LICENCES,
)  # fmt: skip
"""Patterns: hubs are asked for them, and exports copy what is there."""


def copy_companions(source: Path, folder: Path, patterns: Iterable[str] = COMPANIONS) -> None:
    """Copy the files that are there, each to the same place below ``folder``."""
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.is_file():
                target = folder / file.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
