"""Refuse a wheel that ships tests or benchmarks, or lacks what the command line needs."""

from __future__ import annotations

import sys
import zipfile

FORBIDDEN = ("tests/", "benchmarks/", "docs/", ".ci/")
NEEDED = (
    "commands/main.py",
    "demo/model/model.safetensors",
    "demo/tasks/",
    "profiles/devices/",
    "demo/text/",
)


def main(path: str) -> int:
    """Check the names inside the wheel."""
    names = zipfile.ZipFile(path).namelist()
    faults = [f"ships {name}" for name in names if name.startswith(FORBIDDEN)]
    faults += [f"lacks {need}" for need in NEEDED if not any(name.startswith(need) for name in names)]
    print(
        "\n".join(faults)
        or f"{path.rsplit('/', 1)[-1]}: {len(names)} files, nothing foreign, nothing missing"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
