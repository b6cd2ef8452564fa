"""Loads the held-out items of a task from the file beside it, wherever the package is installed.

lm-eval resolves ``data_files`` against the working directory; ``custom_dataset: !function items.held_out`` is
resolved against the YAML file, so this module is found with it, and it finds the items.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def held_out(file: str, **_: Any) -> Any:
    """Items for lm-eval.

    Args:
        file: name of a JSON-lines file in this folder (``dataset_kwargs`` of the YAML).
        _: the task's metadata, which lm-eval passes along.

    Returns:
        A ``datasets.DatasetDict`` with the split ``test``, held in memory.
    """
    from datasets import Dataset, DatasetDict

    lines = (Path(__file__).resolve().parent / file).read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})
