"""Print a command of the README's first block, so that CI runs what a newcomer would paste.

The block has two lines: the first installs and runs the main job, the second installs and passes the tests.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def commands(readme: str) -> list[str]:
    """The lines of the first fenced block."""
    block = re.search(r"^```\w*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    if block is None:
        raise SystemExit("README.md: no fenced block; the first one must hold the two commands")
    lines = [line.strip() for line in block.group(1).splitlines() if line.strip()]
    if len(lines) != 2:
        raise SystemExit(
            f"README.md: the first block has {len(lines)} lines; it must hold exactly two commands"
        )
    return lines


if __name__ == "__main__":
    which = {"run": 0, "test": 1}[sys.argv[1]]
    print(commands(Path("README.md").read_text(encoding="utf-8"))[which])
