"""What pruning does: ``python -m benchmarks.pruning`` writes ``pruning.csv``.

Zeros: every linear inside the blocks by one criterion; ``layer_error`` is the mean over linears of
``tr(D C D^T) / tr(W C W^T)`` (:mod:`benchmarks.pruning_peers`). Cuts: one part of the model smaller; ``magnitude``
stands for the sizes of activations, which rank parts, ``sparsity`` for the share that is cut.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.compressors import Bench, Source, sources
from benchmarks.pruning_peers import layer_error
from benchmarks.tables import beside, write_table
from paretune.compressors.pruners import PRUNERS
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ParetuneError
from paretune.spaces.size import weight_bytes

COLUMNS = (
    "model", "criterion", "pattern", "sparsity", "implementation", "kl", "layer_error", "stored_bytes",
)  # fmt: skip
ZEROS = (("unstructured", 0.5), ("unstructured", 0.7), ("2:4", 0.5), ("4:8", 0.5))


def main() -> None:
    """Measure every model that is there; each row is written at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/")
    parser.add_argument("--models", nargs="*", help="names; all if left out")
    parser.add_argument(
        "--criteria", nargs="*", default=list(PRUNERS), help="of zeros alone; cuts too if left out"
    )
    parser.add_argument("--windows", type=int, default=32, help="windows that are read (count)")
    parser.add_argument("--calibration-windows", type=int, default=64, help="windows of statistics (count)")
    parser.add_argument("--device", default="cpu", help="where the model computes, in float32")
    parser.add_argument("--python", type=Path, help="interpreter that has llm-compressor")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for source in sources(arguments.shared):
        if arguments.models is None or source.name in arguments.models:
            for row in _rows(source, arguments):
                print(*row.values(), flush=True)
                rows.append(row)
                _write(rows)


def _write(rows: list[dict[str, object]]) -> None:
    key = ("model", "criterion", "pattern", "sparsity", "implementation")
    write_table("pruning", COLUMNS, beside("pruning", rows, key))


def _rows(source: Source, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    if arguments.python is not None:
        from benchmarks.pruning_peers import pruning_rows

        yield from pruning_rows(
            source, arguments.python, windows=arguments.windows,
            calibration_windows=arguments.calibration_windows,
        )  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as place:
        bench = Bench.of(
            source, Path(place) / "bank", arguments.windows, arguments.calibration_windows, arguments.device
        )
        bench.assembler.bank.observations.correlate()
        yield from _zeros(bench, arguments.criteria)
        if arguments.criteria == list(PRUNERS):
            yield from _cuts(bench)


def _zeros(bench: Bench, criteria: Sequence[str]) -> Iterator[dict[str, object]]:
    for criterion in criteria:
        for pattern, share in ZEROS:
            sparsity = Sparsity.model_validate(
                {"fraction": share, "pattern": pattern, "criterion": criterion}
            )
            config = bench.config(LayerChoice(sparsity=sparsity))
            bench.assembler.bank.build_for(config)
            kl, error = _kl(bench, config), _mean_error(bench, config)
            yield _row(bench, criterion, pattern, share, config, kl) | {"layer_error": f"{error:.6g}"}


def _cuts(bench: Bench) -> Iterator[dict[str, object]]:
    spec, statistics = bench.spec, bench.assembler.bank.statistics
    cuts: dict[str, tuple[float, dict[str, object]]] = {
        "heads": (0.5, {"kv_heads": spec.kv_heads // 2}),
        "channels": (0.25, {"ffn_channels": spec.ffn_size * 3 // 4}),
        "width": (0.25, {"hidden": spec.hidden_size * 3 // 4}),
        "blocks": (1 / spec.blocks, {"blocks": tuple(sorted(statistics.block_order[1:]))}),
    }
    for pattern, (share, values) in cuts.items():
        try:
            config = CompressionConfig(pruned=PrunedShape.model_validate(values))
            yield _row(bench, "magnitude", pattern, round(share, 4), config, _kl(bench, config))
        except ParetuneError as error:
            print(f"{bench.source.name}: {pattern}: {error}", flush=True)


def _kl(bench: Bench, config: CompressionConfig) -> float:
    found = float(bench.teacher.compare(bench.assembler.apply(config)).kl.mean())
    bench.assembler.apply(DENSE_CONFIG)
    return found


def _mean_error(bench: Bench, config: CompressionConfig) -> float:
    """Over linears; experts one by one, each on its own inputs."""
    bank, errors = bench.assembler.bank, []
    for linear in bench.spec.block_linears:
        choice = config.choice(linear.name)
        covariance = bank.observations.covariance(linear)
        dense, pruned = (bank.tensor(linear.name, found) for found in (LayerChoice(), choice))
        if linear.experts == 1:
            parts = [(dense, pruned, covariance)]
        else:
            parts = list(zip(dense, pruned, covariance, strict=True))
        for weight, left, seen in parts:
            rows = (weight.t(), left.t()) if linear.transposed else (weight, left)
            errors.append(layer_error(rows[0].cpu(), rows[1].cpu(), seen.cpu()))
    return sum(errors) / len(errors)


def _row(
    bench: Bench, criterion: str, pattern: str, share: float, config: CompressionConfig, kl: float
) -> dict[str, object]:
    return {
        "model": bench.source.name, "criterion": criterion, "pattern": pattern, "sparsity": share,
        "implementation": "paretune", "kl": f"{kl:.6g}", "layer_error": None,
        "stored_bytes": weight_bytes(bench.spec, config),
    }  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
