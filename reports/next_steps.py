"""What to do with a run: commands to copy."""

from __future__ import annotations

import math
import shlex
from typing import Any

from paretune.reports.comparison import picked
from paretune.reports.reading import RunFolder


def next_steps(folder: RunFolder) -> list[tuple[str, str]]:
    """Pairs of words and a command."""
    run = shlex.quote(str(folder.path))
    recommended = picked(folder.front)
    steps: list[tuple[str, str]] = []
    if folder.run.status != "complete":
        steps.append(
            (
                "Continue the search where it stopped:",
                f"paretune search --run-file {run}/run.json --out {run}",
            )
        )
    export = folder.run.export
    if recommended is not None and (
        export is None or export.get("name") != recommended.name or "failed" in export
    ):
        steps.append(
            (
                "Export the recommended configuration and load it again:",
                f"paretune export {run} --name {shlex.quote(recommended.name)}",
            )
        )
    elif export is not None and isinstance(export.get("folder"), str):
        if "not_loaded" in export:
            words = "Make a folder to copy to the machine that serves, and verify there before anything else:"
            steps.append((words, f"paretune export {run} --bundle"))
        steps.append(_after_export(export, folder))
        gguf = export.get("gguf")
        if isinstance(gguf, dict):
            steps.append(("Serve it with llama.cpp:", str(gguf["launch"])))
    size = None if recommended is None else recommended.value("weight_bytes")
    if size is not None:
        # Rounded up: the recommended configuration itself has to meet it.
        bound = f"weight_bytes<={math.ceil(size / 1e4) / 100:.12g}MB"
        steps.append(("Choose under other limits:", f"paretune select {run} --limit {shlex.quote(bound)}"))
    else:
        steps.append(("Choose under other limits:", f"paretune select {run} --limit 'kl<=0.1'"))
    return steps


def _after_export(export: dict[str, Any], folder: RunFolder) -> tuple[str, str]:
    """Look at the checkpoint, or serve it where it is not one for ``transformers``."""
    if export.get("engine", "transformers") != "transformers" and isinstance(export.get("launch"), str):
        return "Serve the export:", export["launch"]
    checkpoint = shlex.quote(export["folder"])
    return (
        "Check the exported checkpoint against its base:",
        f"paretune check {checkpoint} --base {_model(folder)}",
    )


def _model(folder: RunFolder) -> str:
    return shlex.quote(str(folder.run.model.get("source", "MODEL")))
