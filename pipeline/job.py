"""The main job, stage by stage: prepare, profile, search, judge the front, report, export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.evaluators.cost import CostEvaluator
from paretune.evaluators.tasks import TaskEvaluator
from paretune.pipeline.exporting import Exported, export_line, export_member
from paretune.pipeline.files import Status, spent_before, write_run, write_spent
from paretune.pipeline.finish import judge_tasks, latency_checks, measure_latency
from paretune.pipeline.gguf import check_gguf, gguf_line, write_gguf
from paretune.pipeline.plan import Plan, make_plan
from paretune.pipeline.profiling import can_be_timed, profile_engine
from paretune.pipeline.progress import Progress, Stages, note
from paretune.pipeline.run import unmet
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.workbench import Workbench, furnish, prepare
from paretune.reports.report import write_report
from paretune.search.promotion import promote
from paretune.search.result import build_front, write_front
from paretune.search.run_folder import (
    check_run_folder,
    lock_run_folder,
    refuse_other_folder,
    tie_run_folder,
)
from paretune.search.study import Study
from paretune.spaces.errors import EngineError, ParetuneError, VerificationError
from paretune.spaces.evaluator import Evaluator
from paretune.spaces.refusals import beside_language
from paretune.spaces.result import FrontFile, Member


@dataclass(frozen=True)
class Outcome:
    """How a job ended, once there is a front.

    Attributes:
        interrupted: the search was stopped and the front found so far written, or what follows the search was.
        failure: the first of what failed after the search; everything else is written.
    """

    interrupted: bool
    failure: ParetuneError | None


def run_job(run: RunFile, folder: Path, progress: Progress) -> Outcome:
    """Run everything that ``run`` asks for into ``folder``.

    Interrupted once, the search stops and the front found so far is judged and written; interrupted again, the
    job leaves at once and the next start continues from ``records.jsonl``.

    Raises:
        ParetuneError: whatever was refused before there was a front.
    """
    refuse_other_folder(folder)
    with lock_run_folder(folder):
        stages = Stages(progress, spent_before(folder))
        made = prepare(run, folder, stages, searching=True)
        plan = make_plan(made, folder, stages)
        for line in plan.lines():
            note(line)
        stages.expected.update(plan.seconds)
        try:
            bench = furnish(made, folder, stages)
            bench.plan = plan.document()
            with stages.stage("dense", "reading the dense model"):
                bench.quality = bench.read_dense(stages)
            study = open_study(bench, stages)
            stages.spent["search"] = max(stages.spent.get("search", 0.0), study.records.seconds_on("search"))
            interrupted = _search(study, stages)
            return Outcome(interrupted, _finish(bench, study, stages, interrupted))
        except KeyboardInterrupt:
            if all((folder / name).is_file() for name in ("front.json", "run.json")):
                return Outcome(True, None)
            note(f"\nwhat is done is kept in {folder}: the same command goes on from there")
            raise
        finally:
            write_spent(folder, stages)


def foresee(run: RunFile, folder: Path, progress: Progress) -> Plan:
    """What :func:`run_job` would take; nothing is written.

    Raises:
        ParetuneError: whatever is refused before the bank.
    """
    refuse_other_folder(folder)
    stages = Stages(progress, spent_before(folder))
    with tempfile.TemporaryDirectory() as copies:
        return make_plan(prepare(run, folder, stages, searching=True, copies=Path(copies)), folder, stages)


def open_study(bench: Workbench, stages: Stages) -> Study:
    """Profile the engine and set up the search.

    Raises:
        LimitError: no configuration meets a limit.
        RunError: the folder belongs to another model, text, bank or space.
    """
    fingerprint = bench.fingerprint()
    check_run_folder(bench.folder, fingerprint)
    predictor, digest = profile_engine(bench, stages)
    tie_run_folder(bench.folder, {**fingerprint, "predictor": digest})
    bench.profiled = can_be_timed(bench)
    windows = {name: windows.count for name, windows in bench.windows.items()}
    quality: Evaluator = bench.quality
    if bench.scorer is not None and (names := bench.run.searched_tasks):
        quality = TaskEvaluator(quality, bench.assembler, bench.scorer, names, windows, bench.executed)
    return Study(
        bench.space,
        quality,
        CostEvaluator(bench.spec, bench.run.workload, predictor),
        bench.run.search,
        bench.folder,
        windows,
        bench.run.texts.window_tokens,
    )


def _search(study: Study, stages: Stages) -> bool:
    """Search; whether it was interrupted."""
    with stages.stage("search", "searching"):
        try:
            study.run(stages.report)
        except KeyboardInterrupt:
            note("stopped searching; judging what was found (interrupt again to leave at once)")
            return True
    return False


def _finish(bench: Workbench, study: Study, stages: Stages, interrupted: bool) -> ParetuneError | None:
    """Judge the front, write and export; the first of what failed, which costs nothing but itself.

    The page is written once, whatever fails or is interrupted on the way: engines, tasks, disks.
    """
    with stages.stage("judging", "reading the front on the report text"):
        front = build_front(study, promote(study, stages.report))
        write_front(front, bench.folder)
    _document(bench, study, stages, "interrupted" if interrupted else "running", front)
    failures: list[tuple[str, ParetuneError]] = []
    try:
        if interrupted:
            return None
        for what, judge in (
            ("latency was not measured", measure_latency),
            ("tasks were not scored", judge_tasks),
        ):
            try:
                front = judge(bench, front, stages)
            except ParetuneError as error:
                failures.append((what, error))
        write_front(front, bench.folder)
        _document(bench, study, stages, "complete", front, more=_told(failures))
        exported, failure = (
            _export(bench, front, stages) if front.recommended else (None, unmet(front.limits))
        )
        if failure is not None:
            failures.append(("the export failed" if front.recommended else "nothing was exported", failure))
        if exported is not None or failure is not None:
            _document(bench, study, stages, "complete", front, exported, _told(failures))
    finally:
        write_report(bench.folder)
    return failures[0][1] if failures else None


def _told(failures: Sequence[tuple[str, ParetuneError]]) -> tuple[str, ...]:
    """A note per failure."""
    return tuple(f"{what}: {error}" for what, error in failures)


def _document(
    bench: Workbench,
    study: Study,
    stages: Stages,
    status: Status,
    front: FrontFile,
    exported: Exported | None = None,
    more: tuple[str, ...] = (),
) -> None:
    """Write ``run.json``."""
    checks, notes = latency_checks(bench, front), (*more, *_notes(study))
    write_run(bench, study, stages, status, front=front, checks=checks, export=exported, notes=notes)


def _export(
    bench: Workbench, front: FrontFile, stages: Stages
) -> tuple[Exported | None, ParetuneError | None]:
    """Export the recommended configuration; what ``run.json`` keeps of it, and what was refused or found wrong."""
    if not bench.run.export:
        return None, None
    member = next(member for member in front.members if member.name == front.recommended)
    verdict = bench.engine.export_ruling(bench.spec, member.config)
    if not verdict:
        note(f"{member.name} is not exported: {verdict.reason}")
        return None, None
    done: Exported | None = None
    folder = bench.folder / "export" / member.name
    try:
        with stages.stage("export", f"exporting {member.name} and loading it again"):
            done = export_member(bench, member, folder)
        note(export_line(done))
        if bench.run.gguf and bench.engine.name != "llama.cpp" and (found := _gguf(bench, member, stages)):
            done["gguf"] = found
    except VerificationError as error:
        done = done or {"name": member.name, "folder": str(folder), "failed": f"{error.value} {error.rule}"}
        return done, error
    except ParetuneError as error:
        return done, error
    return done, None


def _gguf(bench: Workbench, member: Member, stages: Stages) -> dict[str, Any]:
    """The recommended configuration as GGUF too; the export itself stands without it.

    Raises:
        VerificationError: llama.cpp runs something else than was written.
    """
    folder = bench.folder / "export" / f"{member.name}-gguf"
    with stages.stage("gguf", f"writing {member.name} as GGUF and asking llama.cpp"):
        try:
            config, kl = write_gguf(bench, member, folder)
        except EngineError as error:
            note(f"not written as GGUF: {error.value} {error.rule}")
            return {}
        try:
            done = check_gguf(bench, config, kl, folder)
        except EngineError as error:
            note(f"written as GGUF to {folder}, and not verified: {error.value} {error.rule}")
            return {}
    note(gguf_line(done))
    return done


def _notes(study: Study) -> tuple[str, ...]:
    notes = beside_language(study.space.spec)
    if study.ended == "converged":
        notes.append("the search ended before its budget: the sampler expects nothing better of what is left")
    if study.ended == "exhausted":
        notes.append("the search ended before its budget: every point of the space was proposed")
    sparse = any(choice.sparsity for r in study.records for choice in r.config.layers.values())
    if sparse:
        notes.append(
            "zeros are stored like any other weight in this engine's exports, so sparsity saves no bytes; it can "
            "only win where a sparse kernel is faster"
        )
    return tuple(notes)
