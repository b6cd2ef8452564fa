"""Everything a run works with, opened once: model, texts, bank, space, evaluators."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.arithmetic import Arithmetic, load_for_scoring
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.dequantized import dense_folder, refuse_unexpandable
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_tokenizer, model_hash
from paretune.compressors.prefix import Prefix
from paretune.compressors.windows import TokenWindows
from paretune.engines import Engine, find_engine
from paretune.evaluators.cost import CostEvaluator
from paretune.evaluators.execution import Executed
from paretune.evaluators.quality import QualityEvaluator
from paretune.evaluators.tasks import TaskScorer
from paretune.pipeline.memory import share_memory
from paretune.pipeline.models import model_folder
from paretune.pipeline.offer import check_offer
from paretune.pipeline.progress import Stages, note
from paretune.pipeline.refusals import refuse_early
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.targets import target_device
from paretune.pipeline.texts import read_texts
from paretune.search.feasibility import check_feasible
from paretune.search.run_folder import OF, check_run_folder, kept_fingerprint
from paretune.search.study import versions_of
from paretune.spaces.architectures import check_weights, read_model
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import EngineError, RunError
from paretune.spaces.legality import Legality
from paretune.spaces.model import ModelSpec
from paretune.spaces.patterns import Restrictions
from paretune.spaces.schema import sha256_of
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Device

_ARITHMETIC = "arithmetic"
"""Part of a fingerprint: which one was chosen when the run began."""


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
        arithmetic: that candidates are read in.
        profiled: whether the engine runs here on the target device, so that latency can be measured.
        scorer: of the run's tasks, once they are known to exist.
        plan: what a search was announced to take.
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
    hashes: dict[str, str]
    executed: Executed
    arithmetic: Arithmetic
    profiled: bool = False
    scorer: TaskScorer | None = None
    plan: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def quality(self) -> QualityEvaluator:
        """Scores candidates; the dense model is read when it is asked for first, which an export never does."""
        return self.read_dense(None)

    def read_dense(self, stages: Stages | None) -> QualityEvaluator:
        """:attr:`quality` made anew, told to ``stages``."""
        model, teachers = self.assembler.apply(DENSE_CONFIG), {}
        for name in ("search", "report"):
            told = None if stages is None else partial(stages.report, f"{name} text")
            # Candidates are read one after the other on the search text, and on the other one seldom.
            prefix = Prefix(model.get_submodule(self.spec.block_path)) if name == "search" else None
            teachers[name] = Teacher(
                model, self.windows[name], progress=told, prefix=prefix, tf32=self.arithmetic.tf32
            )
        return QualityEvaluator(self.assembler, teachers, self.executed)

    def fingerprint(self) -> dict[str, str]:
        """What a run folder is tied to: numbers of another workload or arithmetic do not belong beside its own."""
        space = {parameter.name: parameter.names for parameter in self.space.parameters}
        return {
            **self.hashes,
            "space": sha256_of(space),
            _ARITHMETIC: self.arithmetic.name,
            **settings_fingerprint(self.run, self.engine, self.device),
        }


def settings_fingerprint(run: RunFile, engine: Engine, device: Device) -> dict[str, str]:
    """What of :meth:`Workbench.fingerprint` is known before the model is loaded."""
    search = run.search
    settings = {
        "objectives": search.objectives,
        "seed": search.seed,
        "sampler": search.sampler,
        "rungs": [search.marginal_tokens, search.baseline_tokens, search.candidate_tokens],
    }
    tasks = run.tasks.settings if (names := run.searched_tasks) else None
    return {
        "version": versions_of(QualityEvaluator, CostEvaluator),
        "workload": sha256_of(run.workload.model_dump(mode="json")),
        "arithmetic of scores": f"{run.compute_dtype} on {compute_device(run).partition(':')[0]}",
        OF: run.model,
        "engine": run.engine,
        "device": device.name,
        "numeric path": engine.numeric_path(device.name),
        "search settings": sha256_of(settings),
        "tasks": "" if tasks is None else sha256_of([names, str(tasks.folder), tasks.limit]),
    }


@dataclass(frozen=True)
class Prepared:
    """What is there before the bank: the model is loaded, everything that can be refused without it was.

    Attributes:
        run: the settings.
        engine, device: that it is made for.
        source: folder of the checkpoint.
        legality, offered: what the engine takes, and what is searched of it.
        scorer: of the run's tasks, where they are scored.
        model: dense.
        arithmetic: that candidates are read in.
        digest: of its weights.
    """

    run: RunFile
    engine: Engine
    device: Device
    source: Path
    spec: ModelSpec
    legality: Legality
    offered: Restrictions
    tokenizer: Any
    windows: dict[str, TokenWindows]
    scorer: TaskScorer | None
    model: Any
    arithmetic: Arithmetic
    digest: str


def open_workbench(run: RunFile, folder: Path, stages: Stages) -> Workbench:
    """Load the model, read the texts, build or reuse the bank.

    Raises:
        ParetuneError: whatever does not fit, before anything is written but the bank.
    """
    return furnish(prepare(run, folder, stages), folder, stages)


def prepare(
    run: RunFile, folder: Path, stages: Stages, *, searching: bool = False, copies: Path | None = None
) -> Prepared:
    """Load the model and read the texts.

    Args:
        run: the settings.
        folder: the run folder.
        stages: tells what is being done.
        searching: refuse a folder that belongs to other settings, and settings that cannot succeed, limits on bytes
            that nothing meets and tasks that do not exist among them, before the model is loaded.
        copies: where a checkpoint that ships quantized is expanded to; the run folder if left out.

    Raises:
        ParetuneError: whatever does not fit.
    """
    engine = find_engine(run.engine)
    device = target_device(engine, run.device)
    if searching:
        refuse_early(run, engine, device)
        check_run_folder(folder, settings_fingerprint(run, engine, device))
    said: list[str] = []
    with stages.stage("start", "loading model and texts"):
        source = model_folder(run.model, run.revision)
        spec = engine.stored(read_model(source, source=run.model, revision=run.revision))
        legality, offered = (
            engine.legality_at(device.name, run.workload),
            engine.offered(run.space, device.name),
        )
        refuse_unexpandable(spec)
        if searching:
            # The order of blocks, which a bank knows, changes no bytes; limits on times wait for a profile.
            space = SearchSpace(spec, legality, offered)
            said = [*check_offer(engine, space, run.space, export=run.export)]
            check_feasible(space, CostEvaluator(spec, run.workload).evaluate, run.search.parsed_limits)
        if searching and run.export and not (ruling := engine.source_ruling(source)):
            raise EngineError(
                f"an export of {run.model} for {engine.name}",
                ruling.reason,
                "Use another engine, or search without an export: --no-export",
            )
        if spec.shipped is None:
            check_weights(source, spec)
        place = compute_device(run)
        _refuse_absent(place)
        tokenizer = load_tokenizer(source)
        # Texts before weights: what is wrong with them is said at once.
        windows = read_texts(run.texts, tokenizer, spec, run.search.seed)
        tasks = run.tasks.settings if searching else None
        scorer = None if tasks is None else TaskScorer(tokenizer, tasks)
        if scorer is not None:
            scorer.check_searchable(run.searched_tasks)
        if searching:  # what is refused is said alone
            for line in dict.fromkeys(
                [*said, *(line for found in windows.values() for line in found.remarks)]
            ):
                note(line)
        source = dense_folder(source, spec, folder if copies is None else copies)
        kept = (
            kept_fingerprint(folder).get(_ARITHMETIC, run.compute_dtype) if searching else run.compute_dtype
        )
        model, arithmetic = load_for_scoring(source, spec, windows["search"], place, kept, run.kl_floor)
        digest = model_hash(source)
    return Prepared(
        run,
        engine,
        device,
        source,
        spec,
        legality,
        offered,
        tokenizer,
        windows,
        scorer,
        model,
        arithmetic,
        digest,
    )


def furnish(made: Prepared, folder: Path, stages: Stages) -> Workbench:
    """Build or reuse the bank.

    Raises:
        ParetuneError: a bank of something else, a weight that is not finite, a full disk.
    """
    run, spec, model, windows, engine = made.run, made.spec, made.model, made.windows, made.engine
    with stages.stage("bank", "preparing the bank"):
        place = Path(run.bank) if run.bank else folder / "bank"
        bank = Bank.open(place, made.source, model, spec, made.digest, windows["calibration"])
        space = SearchSpace(spec, made.legality, made.offered, bank.block_order)
        tokens = {name: found.ids.numel() for name, found in windows.items()}
        memory = share_memory(model, spec, space, tokens, run.memory_budget_bytes)
        bank.hold(memory.packed)
        bank.build(space, stages.report)
    assembler = Assembler(model, spec, bank, memory.copies)
    executed = partial(engine.executed_config, spec, device=made.device.name)
    hashes = {"model": made.digest, "bank": bank.hash}
    hashes |= {f"text.{name}": found.digest for name, found in windows.items()}
    return Workbench(
        run=run, folder=folder, model_folder=made.source, spec=spec, engine=engine, device=made.device,
        tokenizer=made.tokenizer, windows=windows, bank=bank, assembler=assembler, space=space,
        hashes=hashes, executed=executed, arithmetic=made.arithmetic, scorer=made.scorer,
    )  # fmt: skip


def compute_device(run: RunFile) -> str:
    """Torch device that scores candidates.

    Candidates for an engine of the CPU are scored there unless the run file names a device: as it computes them.
    """
    if run.compute_device != "auto":
        return run.compute_device
    return "cuda" if find_engine(run.engine).device_kind != "cpu" and torch.cuda.is_available() else "cpu"


def _refuse_absent(device: str) -> None:
    """Refuse a torch device that is not here.

    Raises:
        RunError: torch does not know it, or this machine does not have it.
    """
    remedy = "Name cpu, or cuda:N for a GPU that torch sees"
    try:
        found = torch.device(device)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"compute_device {device!r}", "is no device of torch", remedy) from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count()}
    if (found.index or 0) >= counts.get(found.type, 0):
        count = counts.get(found.type, 0)
        raise RunError(f"compute_device {device!r}", f"torch sees {count} such devices here", remedy)
