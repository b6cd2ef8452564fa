"""The main job, stage by stage: prepare, profile, search, judge the front, export, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.output import Stages, note
from commands.run_file import RunFile

if TYPE_CHECKING:
    from commands.files import Status
    from commands.workbench import Workbench
    from search.study import Study
    from spaces.result import FrontFile, Member


def run_job(run: RunFile, folder: Path, stages: Stages) -> int:
    """Run everything that ``run`` asks for into ``folder``.

    Interrupted once, the search stops and the front found so far is judged and written; interrupted again, the
    job leaves at once and the next start continues from ``records.jsonl``.

    Returns:
        0 when complete, 130 when the search was interrupted and the front written.

    Raises:
        ParetuneError: whatever was refused.
    """
    from commands.workbench import open_workbench
    from reports.summary import summarize
    from search.run_folder import lock_run_folder

    with lock_run_folder(folder):
        bench = open_workbench(run, folder, stages)
        study = open_study(bench, stages)
        interrupted = _search(study, stages)
        _finish(bench, study, stages, interrupted)
    print(summarize(folder))
    return 130 if interrupted else 0


def open_study(bench: Workbench, stages: Stages) -> Study:
    """Profile the engine and set up the search.

    Raises:
        LimitError: no configuration meets a limit.
        RunError: the folder belongs to another model, text, bank or space.
    """
    from commands.profiling import can_be_timed, profile_engine
    from evaluators.cost import CostEvaluator
    from search.run_folder import tie_run_folder
    from search.study import Study

    tie_run_folder(bench.folder, bench.fingerprint())
    predictor = profile_engine(bench, stages)
    bench.profiled = can_be_timed(bench)
    return Study(
        bench.space,
        bench.quality,
        CostEvaluator(bench.spec, bench.run.workload, predictor),
        bench.run.search,
        bench.folder,
        {name: windows.count for name, windows in bench.windows.items()},
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


def _finish(bench: Workbench, study: Study, stages: Stages, interrupted: bool) -> None:
    from commands.files import write_run
    from commands.finish import judge_tasks, latency_checks, measure_latency
    from reports.report import write_report
    from search.promotion import promote
    from search.result import build_front, write_front

    with stages.stage("promotion", "reading the front on the report text"):
        front = build_front(study, promote(study, stages.report))
        write_front(front, bench.folder)
        write_run(bench, study, stages, "interrupted" if interrupted else "running", front=front)
    exported: dict[str, Any] | None = None
    if not interrupted:
        front = judge_tasks(bench, measure_latency(bench, front, stages), stages)
        write_front(front, bench.folder)
        exported = _export(bench, front, stages)
    with stages.stage("report", "writing the report"):
        status: Status = "interrupted" if interrupted else "complete"
        notes = _notes(study)
        checks = latency_checks(bench, front)
        write_run(bench, study, stages, status, front=front, checks=checks, export=exported, notes=notes)
        write_report(bench.folder)


def _export(bench: Workbench, front: FrontFile, stages: Stages) -> dict[str, Any] | None:
    from commands.export import export_line, export_member, find_member

    if not bench.run.export:
        return None
    member = find_member(front.members, front.pick)
    verdict = bench.engine.export_ruling(bench.spec, member.config)
    if not verdict:
        note(f"{member.name} is not exported: {verdict.reason}")
        return None
    with stages.stage("export", f"exporting {member.name} and loading it again"):
        done = export_member(bench, member, bench.folder / "export" / member.name)
    note(export_line(done))
    if bench.run.gguf and bench.engine.name != "llama.cpp":
        done |= _gguf(bench, member, stages)
    return done


def _gguf(bench: Workbench, member: Member, stages: Stages) -> dict[str, Any]:
    from commands.gguf import export_gguf, gguf_line
    from spaces.errors import EngineError

    with stages.stage("gguf", f"writing {member.name} as GGUF and asking llama.cpp"):
        try:
            done = export_gguf(bench, member, bench.folder / "export" / f"{member.name}-gguf")
        except EngineError as error:  # the export itself stands; a file that is not what was written does not
            note(f"not written as GGUF: {error.value} {error.rule}")
            return {}
    note(gguf_line(done))
    return {"gguf": done}


def _notes(study: Study) -> tuple[str, ...]:
    notes = []
    if study.exhausted_space:
        notes.append("the sampler had nothing new to propose before the budget ended")
    sparse = any(r.name.startswith("sparse") for r in study.records)
    if sparse:
        notes.append(
            "zeros are stored like any other weight in this engine's exports, so sparsity saves no bytes; it can "
            "only win where a sparse kernel is faster"
        )
    return tuple(notes)
