"""How fast vLLM serves: ``python -m benchmarks.serving --run RUN --model NAME`` or ``--llama`` makes ``serving.csv``.

``RUN`` is a folder of ``paretune search --engine vllm``: three members of its front (the smallest, the recommended
configuration, and one between them in bytes) and the dense model are exported, loaded and timed. With ``--write
FOLDER`` they are exported and that is all; ``--exports FOLDER`` times what lies there, where there is a GPU.
``--llama`` needs no weights: the shape of Llama-3.1-8B in one format everywhere, a row each, and in two mixes.
Compiled mode, prompts of 128 tokens, 64 new ones, batches of 1, 16 and 64 sequences. Every configuration is a process
of its own; all load at once, since compiling takes minutes and no GPU, and when the last has loaded or ended they are
timed one after the other while the rest sleeps. The engine's own limit of time is the only one, from the first load
to the last row. Rows are written as they come; those of other models stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bank import LLAMA
from benchmarks.tables import beside, write_table
from paretune.engines.checkpoint.schemes import VLLM, quantization_config
from paretune.engines.engine import ExportCard
from paretune.engines.manifest import read_manifest
from paretune.engines.vllm_engine import Vllm
from paretune.pipeline.progress import Stages
from paretune.pipeline.run_file import validate_run
from paretune.pipeline.workbench import open_workbench
from paretune.reports.reading import read_run_folder
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.formats import integer_format
from paretune.spaces.groups import fused_groups
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice
from paretune.spaces.result import FrontFile, Member
from paretune.spaces.size import weight_bytes

COLUMNS = (
    "engine", "engine_version", "device", "model", "config", "weight_bytes", "batch", "ttft_s", "tpot_s",
    "tokens_per_s",
)  # fmt: skip
BATCHES = (1, 16, 64)
PROMPT, OUTPUT, REPETITIONS = 128, 64, 5
CACHE_BYTES = 1_750_000_000
"""Of each process: 64 sequences of 192 tokens of Llama-3.1-8B take 1.61 GB."""

LOOK_S = 0.2
FORMATS = ("w8a8-dynamic", "fp8-dynamic", "fp8-block-dynamic", "nvfp4", "mxfp4")
INTEGERS = (8, 3)
LLAMA_NAME = "llama-3.1-8b-shape"
GENERATION = "h100"


@dataclass(frozen=True)
class Served:
    """One configuration of one model, in a folder that vLLM reads."""

    model: str
    config: str
    weight_bytes: int
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)


def main() -> None:
    """Time some models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of searches for vLLM")
    parser.add_argument("--model", nargs="*", default=[], help="names of their models in the table")
    parser.add_argument(
        "--write", type=Path, help="folder that exports are left in, a folder a model, untimed"
    )
    parser.add_argument("--exports", type=Path, help="such a folder: what it holds is timed")
    parser.add_argument("--llama", action="store_true", help="Llama-3.1-8B's shape with dummy weights")
    parser.add_argument("--configs", nargs="*", help="names of the shape's configurations; all if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        served = [
            one
            for run, model in zip(arguments.run, arguments.model, strict=True)
            for one in front_members(run, model, (arguments.write or Path(place)) / model)
        ]
        if arguments.write is not None:
            return
        if arguments.exports is not None:
            served += written(arguments.exports)
        if arguments.llama:
            served += shape_folders(Path(place), arguments.configs)
        time_all(served, Path(place))


def shape_configs(spec: ModelSpec) -> Iterator[tuple[str, CompressionConfig]]:
    """The dense shape, one format everywhere inside the blocks, and two mixes by fused group."""
    legality = Vllm().legality(GENERATION)

    def everywhere(choice: LayerChoice) -> CompressionConfig:
        """Wherever it is legal: fused groups cannot be NVFP4."""
        groups = [g for g in legality.groups(spec) if legality.choice(spec, g, choice, WHOLE)]
        return CompressionConfig(layers={layer: choice for group in groups for layer in group.layers})

    integers = {bits: LayerChoice(weight=integer_format(bits, 128), method="rtn") for bits in (3, 4, 8)}
    yield "bf16", DENSE_CONFIG
    yield "int4-g128", everywhere(integers[4])
    for name in FORMATS:
        yield name, everywhere(find_choice(name))
    yield "mix-4-8", _mixed(spec, integers[4], integers[8])
    yield "mix-fp8-int4", _mixed(spec, find_choice("fp8-dynamic"), integers[4])
    for bits in INTEGERS:
        yield f"int{bits}-g128", everywhere(integers[bits])


def _mixed(spec: ModelSpec, first: LayerChoice, second: LayerChoice) -> CompressionConfig:
    """Attention and FFN differ, and change places from block to block."""
    layers = {}
    for group in fused_groups(spec):
        if group.block is not None:
            attention = group.name.rpartition(".")[2] in ("qkv", "o")
            choice = first if attention == (group.block % 2 == 0) else second
            layers.update(dict.fromkeys(group.layers, choice))
    return CompressionConfig(layers=layers)


def shape_folders(place: Path, wanted: Sequence[str] | None) -> Iterator[Served]:
    """Dummy weights: a ``config.json`` is all that vLLM reads."""
    (place / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    spec = read_model(place)
    for name, config in shape_configs(spec):
        if wanted is not None and name not in wanted:
            continue
        folder = place / name
        folder.mkdir()
        found = quantization_config(spec, config, VLLM)
        values = LLAMA if found is None else {**LLAMA, "quantization_config": found}
        (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
        yield Served(LLAMA_NAME, name, weight_bytes(spec, config), folder, {"load_format": "dummy"})


def front_members(run: Path, model: str, place: Path) -> Iterator[Served]:
    """Three members of a front, and the dense model."""
    found = read_run_folder(run)
    bench = open_workbench(validate_run(found.run.settings, "run.json"), run, Stages(True))
    chosen = {"bf16": DENSE_CONFIG, **{m.name: m.config for m in three_members(found.front)}}
    for name, config in chosen.items():
        card = ExportCard(bench.model_folder, name)
        folder = Vllm().export(bench.assembler, config, place / name, card)
        yield Served(model, name, weight_bytes(bench.spec, config), folder)


def written(exports: Path) -> Iterator[Served]:
    """What ``--write`` left: a folder a model, in it a folder a configuration."""
    for folder in sorted(exports.glob("*/*/")):
        size = int(read_manifest(folder)["weight_bytes"])
        yield Served(folder.parent.name, folder.name, size, folder)


def three_members(front: FrontFile) -> list[Member]:
    """The smallest, the recommended configuration, and of those between them the middle one (else the next larger)."""
    members = sorted((m for m in front.members if m.on_front and m.name != "dense"), key=_bytes)
    recommended = next((m for m in members if m.name == front.recommended), members[len(members) // 2])
    position = members.index(recommended)
    between = members[position // 2] if position > 1 else members[min(position + 1, len(members) - 1)]
    return list({m.digest: m for m in (members[0], between, recommended)}.values())


def _bytes(member: Member) -> float:
    return member.measurements["weight_bytes"].value


def time_all(served: Sequence[Served], place: Path) -> None:
    """Load everything, then let one after the other run; what vLLM refuses is said and has no row."""
    rows: list[dict[str, object]] = []
    with ThreadPoolExecutor(len(served)) as threads:
        turns: list[_Turn] = []
        try:
            for i, one in enumerate(served):
                turns.append(_Turn.start(one, place / f"turn-{i}", threads))
            while not all(turn.ready for turn in turns):
                time.sleep(LOOK_S)
            for turn in turns:
                if found := timed(turn):
                    rows += found
                    write(rows)
        finally:
            # What waits for its turn would wait for ever, and the executor for it.
            for turn in turns:
                turn.go.touch()


@dataclass(frozen=True)
class _Turn:
    served: Served
    loaded: Path
    go: Path
    answer: Future[dict[str, Any]]

    @classmethod
    def start(cls, served: Served, place: Path, threads: ThreadPoolExecutor) -> _Turn:
        place.mkdir()
        loaded, go = place / "loaded", place / "go"
        settings: dict[str, Any] = {"loaded": str(loaded), "go": str(go), "repetitions": REPETITIONS}
        # A given size of cache: what is free is not measured, and others load at the same time.
        options = {"kv_cache_memory_bytes": CACHE_BYTES, "gpu_memory_utilization": 0.05}
        settings |= {"options": options, **served.settings}
        answer = threads.submit(Vllm().speed, served.folder, BATCHES, PROMPT, OUTPUT, **settings)
        return cls(served, loaded, go, answer)

    @property
    def ready(self) -> bool:
        """Whether it computes nothing until it may: it sleeps, or has ended."""
        return self.loaded.exists() or self.answer.done()


def timed(turn: _Turn) -> list[dict[str, object]]:
    """Let one process run and wait until it ends; no rows where vLLM refuses."""
    served = turn.served
    turn.go.touch()
    try:
        found = turn.answer.result()
    except EngineError as error:
        print(f"{served.model} {served.config}: {error}", flush=True)
        return []
    rows: list[dict[str, object]] = [
        {
            "engine": Vllm.name, "engine_version": found["vllm"], "device": found["device"],
            "model": served.model, "config": served.config, "weight_bytes": served.weight_bytes,
            "batch": row["batch"],
            **{name: f"{row[name]:.5g}" for name in ("ttft_s", "tpot_s", "tokens_per_s")},
        }
        for row in found["rows"]
    ]  # fmt: skip
    spread = max(row["total_spread_s"] / (row["tpot_s"] * OUTPUT) for row in found["rows"])
    loaded = f"loaded in {found['start_s']:.0f} s"
    print(served.model, served.config, loaded, f"largest spread {spread:.3f}", rows, flush=True)
    return rows


def write(fresh: Sequence[Mapping[str, object]]) -> None:
    """Beside the rows of other models and configurations."""
    notes = (
        f"prompts of {PROMPT} tokens, {OUTPUT} new ones, greedy; medians of {REPETITIONS} runs",
        "compiled mode with CUDA graphs; a process a configuration, timed one after the other",
        "weight_bytes: of every tensor of the checkpoint",
    )
    rows = beside("serving", fresh, ("model", "config", "device"))
    write_table("serving", COLUMNS, sorted(rows, key=lambda row: str(row["model"])), notes)


if __name__ == "__main__":
    main()
