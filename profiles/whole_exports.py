"""Whole exports on this machine: how candidates are timed on engines that run one file.

Exports are written, timed in turns, round after round, and removed again; as many lie on the disk at once as a budget
of bytes allows, always more than one, so that a machine that slows down slows neighbours alike.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.profiles.harness import Progress
from paretune.profiles.predictor import MeasuredRun
from paretune.profiles.whole_model import WholeModel, spread
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.size import weight_bytes
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.engines.engine import Engine

ROUNDS = 2
DISK_BYTES = 4 << 30
_REPETITIONS = 3
"""Of a process: most of what differs between two of them is how they were started."""


def time_exports(
    engine: Engine,
    assembler: Assembler,
    configs: Sequence[CompressionConfig],
    workload: Workload,
    source: Path,
    *,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> list[WholeModel]:
    """Time every candidate at ``workload``, in turns.

    Args:
        engine: that writes and runs the exports.
        assembler: over the bank that the weights come from.
        configs: of the candidates; each must be one that the engine exports.
        workload: of one sequence.
        source: folder of the dense checkpoint.
        rounds: processes a candidate.
        progress: told of every round.

    Raises:
        EngineError: the engine cannot write or run a candidate.
    """
    found: list[WholeModel] = []
    stored = engine.stored(assembler.spec)
    total = len(configs) * rounds
    for part in _parts(configs, [weight_bytes(stored, config) for config in configs]):
        with tempfile.TemporaryDirectory(prefix="paretune-timing-") as scratch:
            folders = [Path(scratch) / str(index) for index in range(len(part))]
            for config, folder in zip(part, folders, strict=True):
                _export(engine, assembler, config, folder, source)
            times: list[list[tuple[float, float]]] = [[] for _ in part]
            for done in range(rounds):
                for index, folder in enumerate(folders):
                    taken = engine.time_export(folder, workload, _REPETITIONS)
                    times[index] += zip(taken.ttft_s, taken.tpot_s, strict=True)
                if progress is not None:
                    progress("timing whole exports", rounds * len(found) + (done + 1) * len(part), total)
        found += [_whole(config, workload, some) for config, some in zip(part, times, strict=True)]
    return found


def _export(
    engine: Engine, assembler: Assembler, config: CompressionConfig, folder: Path, source: Path
) -> None:
    from paretune.engines.engine import ExportCard

    engine.export(assembler, config, folder, ExportCard(source, "timed"))


def _whole(config: CompressionConfig, workload: Workload, times: list[tuple[float, float]]) -> WholeModel:
    first, further = ([pair[column] for pair in times] for column in (0, 1))
    run = MeasuredRun(config, workload, statistics.median(first), statistics.median(further))
    return WholeModel(run, spread(first), spread(further), len(times))


def _parts(
    configs: Sequence[CompressionConfig], sizes: Sequence[int], budget: int = DISK_BYTES
) -> Iterator[list[CompressionConfig]]:
    """Neighbours that fit the budget together, two at least."""
    part: list[CompressionConfig] = []
    held = 0
    for config, size in zip(configs, sizes, strict=True):
        if len(part) > 1 and held + size > budget:
            yield part
            part, held = [], 0
        part.append(config)
        held += size
    if part:
        yield part
