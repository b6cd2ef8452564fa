"""Whole models on this machine: the candidates that a profile measures, and how they are timed.

Candidates take turns, round after round, so that a machine that slows down slows all of them alike. On our own
runtimes all stand ready at once; engines that run one file get exports, which are written, timed and removed again: as
many lie on the disk at once as a budget of bytes allows, always more than one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.profiles.candidates import eight_bit_cache, everywhere, four_bit_group, smaller_pruned
from paretune.profiles.harness import Progress
from paretune.profiles.predictor import MeasuredRun
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.legality import Legality
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import weight_bytes
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.engines.engine import Engine
    from paretune.engines.profiled_engine import ProfiledEngine, Runtime
    from paretune.profiles.energy import EnergyMeter

ROUNDS = 5
PROCESSES = 2
DISK_BYTES = 4 << 30
_REPETITIONS = 3
"""Of a process: most of what differs between two of them is how they were started."""
_ENERGY_S = 1.0
"""Long enough for counters that move every 100 ms."""


@dataclass(frozen=True)
class WholeModel:
    """One candidate as it ran.

    Attributes:
        run: medians over the rounds.
        ttft_spread_s, tpot_spread_s: half the distance between the quartiles.
        rounds: behind the medians.
        energy_j_per_token: of a whole batch, prompts included, per output token; ``None`` where unknown.
    """

    run: MeasuredRun
    ttft_spread_s: float
    tpot_spread_s: float
    rounds: int
    energy_j_per_token: float | None = None


def profile_candidates(spec: ModelSpec, legality: Legality) -> dict[str, CompressionConfig]:
    """Dense, uniform formats, an 8-bit cache and two pruned models: what is legal of them, by name."""
    group = four_bit_group(spec)
    eight, four = _uniform(spec, 8, group), _uniform(spec, 4, group)
    row = LayerChoice(weight=integer_format(8, None), method="rtn")
    inputs = row.model_copy(update={"activation": ActivationFormat()})
    found = {
        "dense": DENSE_CONFIG,
        "uniform-8": eight,
        "uniform-4": four,
        "uniform-3": _uniform(spec, 3, group),
        "uniform-8, one scale per row": everywhere(spec, row),
        "uniform-8, 8-bit inputs": everywhere(spec, inputs),
        "uniform-4, 8-bit cache": eight_bit_cache(four),
    }
    for base, config in (("dense", DENSE_CONFIG), ("uniform-4", four)):
        for name, (_, smaller) in smaller_pruned(spec, config).items():
            found[f"{base}, {name}"] = smaller
    return {name: config for name, config in found.items() if is_legal(spec, legality, config)}


def is_legal(spec: ModelSpec, legality: Legality, config: CompressionConfig) -> bool:
    """Whether the engine accepts every choice of a configuration."""
    pruned = config.pruned
    return bool(
        legality.kv(spec, config.kv)
        and legality.pruned(spec, pruned)
        and all(
            legality.choice(spec, group, config.choice(group.layers[0]), pruned)
            for group in legality.groups(spec)
            if pruned.keeps_block(group.block)
        )
    )


def time_models(
    engine: ProfiledEngine,
    assembler: Assembler,
    configs: Mapping[str, CompressionConfig],
    workload: Workload,
    *,
    rounds: int = ROUNDS,
    meter: EnergyMeter | None = None,
    progress: Progress | None = None,
) -> dict[str, WholeModel]:
    """Time every candidate at ``workload``, in turns; see :meth:`paretune.engines.profiled_engine.Runtime.time`."""
    runtimes = {name: engine.runtime(assembler, config) for name, config in configs.items()}
    first: dict[str, list[float]] = {name: [] for name in configs}
    further: dict[str, list[float]] = {name: [] for name in configs}
    for done in range(rounds):
        for name, runtime in runtimes.items():
            timing = runtime.time(workload, 1)
            first[name].append(timing.ttft_s)
            further[name].append(timing.tpot_s)
        if progress is not None:
            progress("timing whole models", done + 1, rounds)
    found = {}
    for name, config in configs.items():
        energy = energy_per_token(runtimes[name], assembler.spec, workload, meter)
        found[name] = _whole(config, workload, first[name], further[name], energy)
    return found


def _whole(
    config: CompressionConfig,
    workload: Workload,
    first: list[float],
    further: list[float],
    energy: float | None = None,
) -> WholeModel:
    run = MeasuredRun(config, workload, statistics.median(first), statistics.median(further))
    return WholeModel(run, spread(first), spread(further), len(first), energy)


def time_exports(
    engine: Engine,
    assembler: Assembler,
    configs: Sequence[CompressionConfig],
    workload: Workload,
    source: Path,
    *,
    rounds: int = PROCESSES,
    progress: Progress | None = None,
) -> list[WholeModel]:
    """Time every candidate at ``workload``, in turns.

    Args:
        engine: that writes and runs the exports.
        assembler: over the bank that the weights come from.
        configs: of the candidates; each must be one that the engine exports.
        workload: of one sequence.
        source: folder of the dense checkpoint.
        rounds: processes per candidate.
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
        for config, some in zip(part, times, strict=True):
            first, further = ([pair[column] for pair in some] for column in (0, 1))
            found.append(_whole(config, workload, first, further))
    return found


def _export(
    engine: Engine, assembler: Assembler, config: CompressionConfig, folder: Path, source: Path
) -> None:
    from paretune.engines.engine import ExportCard

    engine.export(assembler, config, folder, ExportCard(source, "timed"))


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


def energy_per_token(
    runtime: Runtime, spec: ModelSpec, workload: Workload, meter: EnergyMeter | None
) -> float | None:
    """Joules of answering batches for a second or more, over their output tokens; ``None`` where nothing counts."""
    if meter is None or not meter.available:
        return None
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (workload.batch, workload.prompt_tokens)
    ids = torch.randint(spec.vocabulary, shape, generator=generator)
    batches, start = 0, time.perf_counter()
    with meter.measure() as reading:
        while time.perf_counter() - start < _ENERGY_S:
            runtime.generate(ids, workload.output_tokens)
            batches += 1
    tokens = batches * workload.batch * workload.output_tokens
    return None if reading.joules is None else reading.joules / tokens


def _uniform(spec: ModelSpec, bits: int, group: int | None) -> CompressionConfig:
    return everywhere(spec, LayerChoice(weight=integer_format(bits, group), method="rtn"))


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2
