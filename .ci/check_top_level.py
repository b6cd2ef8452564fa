"""Refuse a top-level name that is a standard-library module or belongs to an installed dependency.

The standard libraries of Python 3.11 to 3.15 differ; names that any of them has are refused.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ADDED_LATER = {"compression", "annotationlib", "profiling", "_colorize"}
"""Standard-library modules that came with 3.14 and 3.15, unknown to an older interpreter."""

REMOVED = {
    "aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "distutils", "imghdr", "imp",
    "lib2to3", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau",
    "telnetlib", "uu", "xdrlib",
}  # fmt: skip
"""Modules that 3.11 has or had and a later version dropped."""


def main() -> int:
    """Check every package that the wheel ships, and the repository's other importable names."""
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    shipped = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    local = {path.name for path in Path().iterdir() if path.is_dir() and any(path.glob("*.py"))}
    standard = set(sys.stdlib_module_names) | ADDED_LATER | REMOVED
    owners = packages_distributions()
    faults = []
    for name in sorted({*shipped, *local, "run_search"}):
        if name in standard:
            faults.append(f"{name}: a standard-library module of a supported Python")
        foreign = set(owners.get(name, [])) - {"paretune"}
        if foreign:
            faults.append(f"{name}: also installed by {', '.join(sorted(foreign))}")
    print("\n".join(faults) or f"top-level names are free: {', '.join(sorted(shipped))}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
