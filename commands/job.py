"""The main job, stage by stage: prepare, profile, search, judge the front, export, report."""

from __future__ import annotations

from pathlib import Path

from commands.output import Stages, note
from commands.run_file import RunFile


def run_job(run: RunFile, folder: Path, stages: Stages) -> int:
    """Run everything that ``run`` asks for into ``folder``.

    Interrupted once, the search stops and the front found so far is still judged and written; interrupted
    again, the job leaves at once and the next start continues from ``records.jsonl``.

    Returns:
        0 when complete, 130 when the search was interrupted and the front written.

    Raises:
        ParetuneError: whatever was refused.
    """
    from commands.finish import finish
    from commands.profiling import profile_engine
    from commands.workbench import open_workbench
    from reports.summary import summarize
    from search.run_folder import lock_run_folder

    folder.mkdir(parents=True, exist_ok=True)
    with lock_run_folder(folder):
        bench = open_workbench(run, folder, stages)
        predictor = profile_engine(bench, stages)
        study = open_study(bench, predictor)
        with stages.stage("search", "searching"):
            interrupted = _search(study, stages)
        status = finish(bench, study, predictor, stages, interrupted)
    print(summarize(folder))
    return status


def _search(study: object, stages: Stages) -> bool:
    try:
        study.run(progress=stages.report)  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        note("stopped searching; judging what was found (interrupt again to leave at once)")
        return True
    return False
