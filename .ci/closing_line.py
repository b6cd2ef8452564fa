"""Print the closing lines of several logs of pytest, and their sum in the same form."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

CLOSING = re.compile(r"^=* ?(?P<counts>\d+ \w+(?:, \d+ \w+)*) in (?P<seconds>[\d.]+)s\b.*$", re.MULTILINE)


def main(logs: list[str]) -> int:
    """Fail where a log has no closing line, or one in which nothing passed."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for log in logs:
        found = list(CLOSING.finditer(Path(log).read_text(encoding="utf-8")))
        if not found or " passed" not in found[-1]["counts"]:
            print(f"{log}: pytest's closing line is missing, or nothing passed")
            return 1
        print(found[-1].group().strip("= "))
        for count, kind in re.findall(r"(\d+) (\w+)", found[-1]["counts"]):
            counts[kind] += int(count)
        seconds += float(found[-1]["seconds"])
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items() if kind != "deselected")
    print(f"{total} in {seconds:.2f}s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
