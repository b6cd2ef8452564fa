"""What members of a front keep of a chat model's tasks, beside uniform configurations: ``chat_model.csv``.

    python -m benchmarks.chat_model FRONT RUN TASKS NAME... --items N

FRONT is the folder of a search, on whatever machine. RUN is one of the same model, texts and methods run here: its
bank and settings make the members again. Scores are of float32 on this machine, ``retained`` is the share of the dense
model's with the error of the paired ratio. Rows of other members stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.tables import beside, write_table
from paretune.evaluators.tasks import TaskScorer, TaskSettings
from paretune.pipeline.progress import Stages
from paretune.pipeline.run import Run
from paretune.pipeline.workbench import open_workbench
from paretune.reports.comparison import retention
from paretune.reports.reading import read_front
from paretune.spaces.result import Member

COLUMNS = (
    "model", "config", "average_bits", "weight_bytes", "kl", "kl_stderr", "task", "items", "score", "score_stderr",
    "retained", "retained_stderr",
)  # fmt: skip
_KEY = ("model", "config", "task")


def main(
    front: Path,
    run: Path,
    tasks: Path,
    names: list[str],
    items: Annotated[int, typer.Option(help="of each task")] = 400,
) -> None:
    """Score the dense model and the members that are named."""
    bench = open_workbench(Run(run).settings, run, Stages())
    scorer = TaskScorer(bench.tokenizer, TaskSettings(folder=tasks, limit=items, batch_size=16))
    members = {member.name: member for member in read_front(front).members}
    dense: Member | None = None
    rows: list[dict[str, object]] = []
    for name in ("dense", *names):
        member = members[name]
        scores = scorer.score(bench.assembler.apply(bench.executed(member.config)))
        scored = member.model_copy(
            update={"measurements": member.measurements | {f"task.{k}": v for k, v in scores.items()}}
        )
        dense = dense or scored
        for task, score in scores.items():
            kept = retention(scored, dense, task)
            rows.append({
                "model": bench.model_folder.name, "config": name,
                "average_bits": member.value("average_bits"), "weight_bytes": member.value("weight_bytes"),
                "kl": member.measurements["kl"].value, "kl_stderr": member.measurements["kl"].stderr,
                "task": task, "items": score.n, "score": score.value, "score_stderr": score.stderr,
                "retained": kept and kept.ratio, "retained_stderr": kept and kept.stderr,
            })  # fmt: skip
        write_table("chat_model", COLUMNS, beside("chat_model", rows, _KEY))


if __name__ == "__main__":
    typer.run(main)
