"""What ``transformers`` computes from an export, in a fresh process."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from paretune.engines.foreign_process import ended_by_others, last_word, process_variables, run_silently
from paretune.engines.predictions import Predictions
from paretune.spaces.errors import EngineError, EngineUnavailableError

_TIMEOUT_S = 1800


def reloaded_predictions(folder: Path, ids: torch.Tensor) -> Predictions:
    """Of the whole vocabulary; see :meth:`paretune.engines.engine.Engine.predictions`."""
    return Predictions.of_logits(reloaded_logits(folder, ids))


def reloaded_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Float32 logits ``(windows, tokens, vocabulary)`` by ``transformers`` in a fresh process.

    Raises:
        EngineUnavailableError: the process took too long, or somebody ended it.
        EngineError: it failed; carries the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="paretune-reload-") as scratch:
        ids_file, out_file = Path(scratch) / "ids.npy", Path(scratch) / "logits.npy"
        np.save(ids_file, ids.to(torch.int64).cpu().numpy(), allow_pickle=False)
        program = [sys.executable, "-m", "paretune.engines.checkpoint.reload"]
        log = Path(scratch) / "log.txt"
        code = run_silently(
            [*program, str(folder.resolve()), str(ids_file), str(out_file)], log, _variables(), _TIMEOUT_S
        )
        if code is None:
            raise EngineUnavailableError(
                f"reloading {folder}", f"took longer than {_TIMEOUT_S} s", "Use fewer windows"
            )
        if ended_by_others(code):
            raise EngineUnavailableError(
                f"reloading {folder}", f"was {last_word('', code)}", "Give it more memory or time"
            )
        if code or not out_file.is_file():
            said = last_word(log.read_text(encoding="utf-8", errors="replace"), code)
            raise EngineError(
                f"export {folder}", f"cannot be reloaded ({said})", "Export again; see the versions"
            )
        return torch.from_numpy(np.load(out_file, allow_pickle=False))


def _variables() -> dict[str, str]:
    """Those of every process of an engine, with our packages importable."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return process_variables(foreign=False, extra={"PYTHONPATH": os.pathsep.join(paths)})
