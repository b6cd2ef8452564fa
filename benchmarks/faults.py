"""Damage and kills: ten thousand files that are not what they should be, and every stage killed at random moments.

Nothing may end in a traceback, be believed though it is another, be lost or be done twice. Inputs that are valid
although they were changed count as accepted. Stages run on a tiny model and a synthetic quality, in processes of their
own that are killed.

    python -m benchmarks.faults [--cases 10000] [--kills 50] [--only TARGET]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from benchmarks.tables import write_table
from tests.robustness.damage import damaged, flipped
from tests.robustness.stages import killed, stages
from tests.robustness.targets import targets
from tests.robustness.trying import tried

COLUMNS = (
    "kind", "target", "tries", "refused", "repaired", "accepted_right", "wrong", "tracebacks", "lost", "doubled"
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="damaged files and texts in all")
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument("--only", default="", help="targets and stages whose name has this; writes no table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, faults = [], []
    with tempfile.TemporaryDirectory() as scratch:
        found = [target for target in targets(Path(scratch, "files")) if arguments.only in target.name]
        each = -(-arguments.cases // (2 * max(1, len(found))))
        for target in found:
            for kind, contents in (("damage", damaged), ("bit flip", flipped)):
                counts, said = tried(target, contents(target.good), each)
                rows.append(_row(kind, f"{target.kind}: {target.name}", counts))
                faults += said
        for stage in stages(Path(scratch, "stages")):
            if arguments.only in stage.name and arguments.kills:
                counts, said = killed(stage, Path(scratch, "stages", stage.name), arguments.kills)
                rows.append(_row("kill -9", f"stage: {stage.name}", counts))
                faults += said
    for fault in faults:
        print(fault, file=sys.stderr)
    if arguments.only:
        for row in rows:
            print(row)
    else:
        write_table("faults", COLUMNS, rows)
    return 1 if faults else 0


def _row(kind: str, target: str, counts: Counter[str]) -> dict[str, str | int]:
    outcomes = ("refused", "repaired", "accepted_right", "wrong", "traceback")
    return {
        "kind": kind, "target": target, "tries": sum(counts[outcome] for outcome in outcomes),
        **{outcome: counts[outcome] for outcome in outcomes[:-1]}, "tracebacks": counts["traceback"],
        "lost": counts["lost"], "doubled": counts["doubled"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
