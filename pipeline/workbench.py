"""Everything a run works with, opened once: model, texts, bank, space, evaluators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.pipeline.models import model_folder
from paretune.pipeline.output import Stages, note
from paretune.pipeline.run_file import RunFile
from paretune.spaces.schema import sha256_of
from paretune.spaces.space import SearchSpace

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.compressors.windows import TokenWindows
    from paretune.engines.engine import Engine
    from paretune.evaluators.execution import Executed
    from paretune.evaluators.quality import QualityEvaluator
    from paretune.evaluators.tasks import TaskScorer
    from paretune.spaces.model import ModelSpec
    from paretune.spaces.target import Device


@dataclass
class Workbench:
    """What the stages of a job share.

    Attributes:
        run: the settings.
        folder: the run folder.
        model_folder: where the weights are.
        windows: token windows by text: ``calibration``, ``search``, ``report``.
        hashes: of model, bank and texts; a run folder is tied to them.
        executed: the candidate as the engine computes it on the device.
        profiled: whether the engine runs here on the target device, so that latency can be measured.
        scorer: of the run's tasks, once they are known to exist.
    """

    run: RunFile
    folder: Path
    model_folder: Path
    spec: ModelSpec
    engine: Engine
    device: Device
    tokenizer: Any
    windows: dict[str, TokenWindows]
    bank: Bank
    assembler: Assembler
    space: SearchSpace
    quality: QualityEvaluator
    hashes: dict[str, str]
    executed: Executed
    profiled: bool = False
    scorer: TaskScorer | None = None

    def fingerprint(self) -> dict[str, str]:
        """What a run folder is tied to: numbers of another workload or arithmetic do not belong beside its own."""
        space = {
            parameter.name: [getattr(c, "name", c) for c in parameter.choices]
            for parameter in self.space.parameters
        }
        return {
            **self.hashes,
            "space": sha256_of(space),
            **settings_fingerprint(self.run, self.engine, self.device),
        }


def settings_fingerprint(run: RunFile, engine: Engine, device: Device) -> dict[str, str]:
    """What of :meth:`Workbench.fingerprint` is known before the model is loaded."""
    from paretune.evaluators.cost import CostEvaluator
    from paretune.evaluators.quality import QualityEvaluator
    from paretune.search.study import versions_of

    search = run.search
    settings = {
        "objectives": search.objectives,
        "seed": search.seed,
        "sampler": search.sampler,
        "rungs": [search.marginal_tokens, search.baseline_tokens, search.candidate_tokens],
    }
    dtype, place = compute_target(run)
    return {
        "version": versions_of(QualityEvaluator, CostEvaluator),
        "workload": sha256_of(run.workload.model_dump(mode="json")),
        "arithmetic of scores": f"{str(dtype).removeprefix('torch.')} on {place.partition(':')[0]}",
        "engine": run.engine,
        "device": device.name,
        "numeric path": engine.numeric_path(device.name),
        "search settings": sha256_of(settings),
    }


def open_workbench(run: RunFile, folder: Path, stages: Stages, *, searching: bool = False) -> Workbench:
    """Load the model, read the texts, build or reuse the bank.

    Args:
        run: the settings.
        folder: the run folder.
        stages: tells what is being done.
        searching: refuse a folder that belongs to other settings, and settings that cannot succeed, before anything is
            loaded; limits on bytes that nothing meets, and tasks that do not exist, before the bank is built.

    Raises:
        ParetuneError: whatever does not fit, before anything is written but the bank.
    """
    from paretune.engines import find_engine
    from paretune.pipeline.finish import task_scorer
    from paretune.pipeline.refusals import refuse_early
    from paretune.profiles.devices import find_device
    from paretune.search.run_folder import check_run_folder

    engine = find_engine(run.engine)
    device = (
        local_device(engine, run.device) if run.device in ("auto", "cpu", "gpu") else find_device(run.device)
    )
    if searching:
        refuse_early(run, engine, device)
        check_run_folder(folder, settings_fingerprint(run, engine, device))
    with stages.stage("start", "loading model and texts"):
        source = model_folder(run.model, run.revision)
        if searching:
            _refuse_nothing(run, source, engine, device)
        parts = _load(run, source, engine)
        scorer = task_scorer(run, parts.tokenizer) if searching else None
    with stages.stage("bank", "preparing the bank"):
        bank = _open_bank(run, folder, source, parts)
        space = SearchSpace(
            parts.spec,
            engine.legality_at(device.name, run.workload),
            engine.offered(run.space),
            bank.block_order,
        )
        if searching:
            _refuse_sizes(run, space)
        bank.build(space, stages.report)
    bench = _assemble(run, folder, source, engine, device, parts, bank, space)
    bench.scorer = scorer
    return bench


def _refuse_nothing(run: RunFile, source: Path, engine: Engine, device: Device) -> None:
    """Refuse an engine that has nothing to choose or to write of the model; say what it leaves alone.

    Raises:
        EngineError, SpaceError: it has nothing.
    """
    from paretune.pipeline.offer import check_offer
    from paretune.spaces.architectures import read_model

    spec = engine.stored(read_model(source, source=run.model, revision=run.revision))
    legality = engine.legality_at(device.name, run.workload)
    for line in check_offer(
        engine, SearchSpace(spec, legality, engine.offered(run.space)), export=run.export
    ):
        note(line)


def _refuse_sizes(run: RunFile, space: SearchSpace) -> None:
    """Refuse limits on bytes that nothing meets before hours go into a bank; those on times have to wait for a profile.

    Raises:
        LimitError: names the limit and the nearest that the space reaches.
    """
    from paretune.evaluators.cost import CostEvaluator
    from paretune.search.feasibility import check_feasible

    check_feasible(space, CostEvaluator(space.spec, run.workload).evaluate, run.search.parsed_limits)


@dataclass
class _Loaded:
    spec: ModelSpec
    model: Any
    tokenizer: Any
    windows: dict[str, TokenWindows]
    model_hash: str


def _load(run: RunFile, source: Path, engine: Engine) -> _Loaded:
    from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
    from paretune.pipeline.output import note
    from paretune.pipeline.texts import read_texts
    from paretune.spaces.architectures import check_weights, read_model

    spec = engine.stored(read_model(source, source=run.model, revision=run.revision))
    check_weights(source)
    tokenizer = load_tokenizer(source)
    windows = read_texts(run.texts, tokenizer, spec, run.search.seed)
    for remark in dict.fromkeys(remark for text in windows.values() for remark in text.remarks):
        note(remark)
    dtype, device = compute_target(run)
    return _Loaded(
        spec, load_dense(source, spec, dtype=dtype, device=device), tokenizer, windows, model_hash(source)
    )


def compute_target(run: RunFile) -> tuple[Any, str]:
    """Torch dtype and device that score candidates: float32 on a CPU (bf16 is slower there), bf16 on a GPU.

    Candidates for an engine of the CPU are scored there unless the run file names a device: as it computes them.
    """
    import torch

    from paretune.engines import find_engine

    device = run.compute_device
    if device == "auto":
        on_gpu = find_engine(run.engine).device_kind != "cpu" and torch.cuda.is_available()
        device = "cuda" if on_gpu else "cpu"
    name = run.compute_dtype
    if name == "auto":
        name = "float32" if device == "cpu" else "bfloat16"
    return getattr(torch, name), device


def _open_bank(run: RunFile, folder: Path, source: Path, parts: _Loaded) -> Bank:
    from paretune.compressors.bank import Bank

    place = Path(run.bank) if run.bank else folder / "bank"
    return Bank.open(place, source, parts.model, parts.spec, parts.model_hash, parts.windows["calibration"])


def _assemble(
    run: RunFile, folder: Path, source: Path, engine: Engine, device: Device, parts: _Loaded, bank: Bank,
    space: SearchSpace,
) -> Workbench:  # fmt: skip
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.divergence import Teacher
    from paretune.evaluators.quality import QualityEvaluator

    assembler = Assembler(parts.model, parts.spec, bank, run.memory_budget_bytes)
    executed = partial(engine.executed_config, parts.spec, device=device.name)
    teachers = {name: Teacher(parts.model, parts.windows[name]) for name in ("search", "report")}
    hashes = {"model": parts.model_hash, "bank": bank.hash}
    hashes |= {f"text.{name}": windows.digest for name, windows in parts.windows.items()}
    return Workbench(
        run=run, folder=folder, model_folder=source, spec=parts.spec, engine=engine, device=device,
        tokenizer=parts.tokenizer, windows=parts.windows, bank=bank, assembler=assembler, space=space,
        quality=QualityEvaluator(assembler, teachers, executed), hashes=hashes, executed=executed,
    )  # fmt: skip


def local_device(engine: Engine, name: str) -> Device:
    """The device of this machine that the engine runs on.

    Raises:
        EngineError: the engine does not run here.
        ConfigurationError: another device was named.
    """
    from paretune.profiles.devices import detect_device
    from paretune.spaces.errors import ConfigurationError, EngineError

    verdict = engine.available()
    if not verdict:
        remedy = "Install it, or name another engine"
        if engine.device_kind != "cpu":
            remedy += "; `paretune search --device h100` searches for a device that is not here"
        raise EngineError(f"engine {engine.name}", verdict.reason, remedy)
    if name in ("cpu", "gpu"):
        return detect_device("cpu" if name == "cpu" else "gpu")
    found = detect_device(engine.device_kind)
    if name not in ("auto", found.name):
        raise ConfigurationError(
            f"device {name!r}",
            f"a profile measures this machine, which is {found.name}",
            "Use --device auto; `paretune advise` answers for other devices",
        )
    return found
