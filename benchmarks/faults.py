"""Damage and kills: ten thousand files that are not what they should be, and every stage killed at random moments.

Nothing may end in a traceback, be believed though it is another, be lost or be done twice. Inputs that are valid
although they were changed count as accepted. Stages run on a tiny model and a synthetic quality, in processes of their
own that are killed.

    TMPDIR=/dev/shm python -m benchmarks.faults [--cases 10000] [--kills 50] [--kept FILE] [--only NAME]

What a target came to is appended to FILE at once: whoever goes on with it tries the others alone. Parts of the work,
named by ``--only``, can be done one after the other; the table is written by the call that is given no name.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hypothesis.strategies import SearchStrategy

from benchmarks.tables import write_table
from tests.robustness.damage import damaged, flipped
from tests.robustness.stages import killed, stages
from tests.robustness.targets import Target, targets
from tests.robustness.trying import tried

COLUMNS = (
    "kind", "target", "tries", "refused", "repaired", "accepted_right", "wrong", "tracebacks", "lost", "doubled"
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="damaged files and texts in all")
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument(
        "--kept", type=Path, help="file that rows are appended to, and are not made again from"
    )
    parser.add_argument("--only", default="", help="targets and stages whose name has this; writes no table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        kept = _Rows(arguments.kept or Path(scratch, "rows"))
        found = list(targets(Path(scratch, "files")))
        each = -(-arguments.cases // (2 * len(found)))
        for target in found:
            for kind, contents in (("damage", damaged), ("bit flip", flipped)):
                if arguments.only in target.name:
                    kept.add(
                        kind, f"{target.kind}: {target.name}", each, partial(_tried, target, contents, each)
                    )
        for stage in stages(Path(scratch, "stages")):
            if arguments.only in stage.name and arguments.kills:
                place = Path(scratch, "stages", stage.name)
                kills = partial(killed, stage, place, arguments.kills)
                kept.add("kill -9", f"stage: {stage.name}", arguments.kills, kills)
    if not arguments.only:
        write_table("faults", COLUMNS, kept.rows)
    return 1 if any(row[column] for row in kept.rows for column in COLUMNS[-4:]) else 0


def _tried(
    target: Target, contents: Callable[[bytes], SearchStrategy[bytes]], cases: int
) -> tuple[Counter[str], list[str]]:
    return tried(target, contents(target.good), cases)


class _Rows:
    """Rows of the table in the order in which they were asked for, kept in a file of JSON lines."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, str | int]] = []
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self._known = {tuple(key): row for key, row in map(json.loads, lines)}

    def add(
        self, kind: str, target: str, tries: int, run: Callable[[], tuple[Counter[str], list[str]]]
    ) -> None:
        """A row of the file, or what ``run`` counts; faults are told at once."""
        key = (kind, target, tries)
        if key not in self._known:
            began = time.monotonic()
            counts, faults = run()
            self._known[key] = _row(kind, target, counts)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, self._known[key]]) + "\n")
            print(*self._known[key].values(), f"{time.monotonic() - began:.1f} s", flush=True)
            print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr, flush=True)
        self.rows.append(self._known[key])


def _row(kind: str, target: str, counts: Counter[str]) -> dict[str, str | int]:
    outcomes = ("refused", "repaired", "accepted_right", "wrong", "traceback")
    return {
        "kind": kind, "target": target, "tries": sum(counts[outcome] for outcome in outcomes),
        **{outcome: counts[outcome] for outcome in outcomes[:-1]}, "tracebacks": counts["traceback"],
        "lost": counts["lost"], "doubled": counts["doubled"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
