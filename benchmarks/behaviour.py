"""What token pruning and early exit cost and spare: ``python -m benchmarks.behaviour``, embedded model.

KL at continuation positions, in the generation loop of ``torch-cpu``, dense weights: no engine that serves
models offers either. A row's ``sparsity`` is counted while it ran: the share of prompt tokens that did not
reach the last block (``tokens``), the share of a decoded token's blocks left out (``exit``). ``criterion`` says
what decides: ``magnitude`` of the attention received or of the largest probability, ``entropy`` of a
prediction. Nothing is fitted to a layer, so ``layer_error`` is empty, and no stored byte falls.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.engines import find_engine
from paretune.engines.behaviour.continuation import continuation_kl
from paretune.engines.behaviour.offer import behaving_runtime
from paretune.engines.runtime.torch_runtime import TorchRuntime
from paretune.engines.torch_engine import TorchEngine
from paretune.spaces.architectures import read_model
from paretune.spaces.behaviour import Behaviour, EarlyExit, TokenPruning
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import weight_bytes

COLUMNS = (
    "model", "criterion", "pattern", "sparsity", "implementation", "kl", "layer_error", "stored_bytes",
)  # fmt: skip
LATENCY_COLUMNS = (
    "model", "criterion", "pattern", "setting", "sparsity", "blocks_run", "ttft_s", "ttft_spread_s", "tpot_s",
    "tpot_spread_s",
)  # fmt: skip
KEPT_SHARES = (0.9, 0.75, 0.5, 0.25)
CONFIDENCES: dict[Literal["probability", "entropy"], tuple[float, ...]] = {
    "probability": (0.99, 0.9, 0.7, 0.5),
    "entropy": (0.99, 0.95, 0.85, 0.7),
}


@dataclass(frozen=True)
class Plan:
    """How a text is read.

    Attributes:
        windows: sequences (count).
        prompt_tokens: of each, fed at once.
        new_tokens: after it, compared.
        after_block, from_block: of pruning and exit; the middle of the model if left out.
    """

    windows: int = 8
    prompt_tokens: int = 192
    new_tokens: int = 64
    after_block: int | None = None
    from_block: int | None = None


@dataclass(frozen=True)
class Case:
    """A behaviour under the table's words."""

    criterion: str
    pattern: str
    setting: float
    behaviour: Behaviour


def cases(spec: ModelSpec, plan: Plan) -> Iterator[Case]:
    """Everything that is measured, the mildest first."""
    middle = spec.blocks // 2
    after = middle - 1 if plan.after_block is None else plan.after_block
    start = middle - 1 if plan.from_block is None else plan.from_block
    for share in KEPT_SHARES:
        tokens = TokenPruning(after_block=after, kept_share=share)
        yield Case("magnitude", "tokens", share, Behaviour(tokens=tokens))
    for measure, thresholds in CONFIDENCES.items():
        criterion = "magnitude" if measure == "probability" else "entropy"
        for threshold in thresholds:
            leave = EarlyExit(from_block=start, confidence=threshold, measure=measure)
            yield Case(criterion, "exit", threshold, Behaviour(exit=leave))


def behaviour_rows(
    model_name: str,
    folder: Path,
    text: Path,
    *,
    documents: tuple[int, ...] | None = None,
    plan: Plan | None = None,
) -> Iterator[dict[str, object]]:
    """Rows of ``pruning.csv``, patterns ``tokens`` and ``exit``.

    Args:
        model_name: word of the table.
        folder: of the dense checkpoint.
        text: that is continued; neither calibration nor search should have seen it.
        documents: of the text, all if left out.
        plan: how it is read.

    Raises:
        EngineError: the model's family has neither, or it attends within a sliding window (``tokens``).
    """
    plan = plan or Plan()
    with _bench(folder, text, documents, plan) as (assembler, windows):
        dense = _runtime(assembler)
        for case in cases(assembler.spec, plan):
            candidate = _runtime(assembler, case.behaviour)
            found = continuation_kl(dense, candidate, windows.ids, plan.prompt_tokens, plan.new_tokens)
            yield {
                "model": model_name, "criterion": case.criterion, "pattern": case.pattern,
                "sparsity": f"{_spared(case, candidate):.4g}", "implementation": "paretune",
                "kl": f"{found.kl.mean():.6g}", "layer_error": None,
                "stored_bytes": weight_bytes(assembler.spec, DENSE_CONFIG),
            }  # fmt: skip


def latency_rows(
    model_name: str,
    folder: Path,
    text: Path,
    *,
    documents: tuple[int, ...] | None = None,
    plan: Plan | None = None,
    repetitions: int = 5,
) -> Iterator[dict[str, object]]:
    """Seconds to the first token and to each further one while a text is continued, one sequence at a time.

    The first row is the dense model's. Early exit is timed on what the model itself goes on to say.
    """
    plan = plan or Plan()
    with _bench(folder, text, documents, plan) as (assembler, windows):
        prompt = windows.ids[:1, : plan.prompt_tokens]
        for case in (Case("", "none", 1.0, Behaviour()), *cases(assembler.spec, plan)):
            runtime = _runtime(assembler, case.behaviour)
            timing = runtime.time_generation(prompt, plan.new_tokens, repetitions)
            yield {
                "model": model_name, "criterion": case.criterion, "pattern": case.pattern,
                "setting": case.setting, "sparsity": f"{_spared(case, runtime):.4g}",
                "blocks_run": f"{runtime.observed.mean_blocks_run:.4g}",
                "ttft_s": f"{timing.ttft_s:.4g}", "ttft_spread_s": f"{timing.ttft_spread_s:.2g}",
                "tpot_s": f"{timing.tpot_s:.4g}", "tpot_spread_s": f"{timing.tpot_spread_s:.2g}",
            }  # fmt: skip


def _spared(case: Case, runtime: TorchRuntime) -> float:
    observed = runtime.observed
    return {"tokens": observed.dropped_share, "exit": observed.skipped_share}.get(case.pattern, 0.0)


def _runtime(assembler: Assembler, behaviour: Behaviour | None = None) -> TorchRuntime:
    engine = find_engine("torch-cpu")
    if not isinstance(engine, TorchEngine):
        raise TypeError("torch-cpu is no engine of torch")
    return behaving_runtime(engine, assembler, DENSE_CONFIG, behaviour)


@contextmanager
def _bench(
    folder: Path, text: Path, documents: tuple[int, ...] | None, plan: Plan
) -> Iterator[tuple[Assembler, TokenWindows]]:
    """The dense model behind an assembler, and the windows."""
    spec = read_model(folder)
    model: Any = load_dense(folder, spec)
    windows = read_windows(
        load_tokenizer(folder),
        text,
        text="benchmark",
        window_tokens=plan.prompt_tokens + plan.new_tokens,
        count=plan.windows,
        seed=0,
        documents=documents,
    )
    with tempfile.TemporaryDirectory() as place:
        # Dense weights need no statistics: a window of the text stands for a calibration that never acts.
        bank = Bank.open(Path(place) / "bank", folder, model, spec, model_hash(folder), windows.first(1))
        yield Assembler(model, spec, bank, 2**32), windows


def main() -> None:
    """Print the embedded model's rows, or its latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=8, help="sequences that are read (count)")
    parser.add_argument("--after-block", type=int, help="last block with every token; the middle if left out")
    parser.add_argument("--from-block", type=int, help="first block to exit after; the middle if left out")
    parser.add_argument("--latency", action="store_true", help="time generation instead of comparing")
    arguments = parser.parse_args()
    plan = Plan(arguments.windows, after_block=arguments.after_block, from_block=arguments.from_block)
    measure = latency_rows if arguments.latency else behaviour_rows
    writer = csv.DictWriter(
        sys.stdout, LATENCY_COLUMNS if arguments.latency else COLUMNS, lineterminator="\n"
    )
    writer.writeheader()
    for row in measure("embedded", demo.MODEL, demo.TEXTS / "benchmark.txt", plan=plan):
        writer.writerow(row)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
