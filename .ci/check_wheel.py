"""Refuse a wheel that puts more into site-packages than ``paretune``, ships tests, or lacks what is needed."""

from __future__ import annotations

import sys
import zipfile

FORBIDDEN = (
    "paretune/tests/",
    "paretune/benchmarks/",
    "paretune/docs/",
    "paretune/.ci/",
    "paretune/setup.py",
)
NEEDED = (
    "paretune/__init__.py",
    "paretune/py.typed",
    "paretune/commands/main.py",
    "paretune/pipeline/api.py",
    "paretune/demo/model/model.safetensors",
    "paretune/demo/tasks/",
    "paretune/demo/text/",
    "paretune/profiles/devices/",
    "paretune/reports/assets/page.js",
    "paretune/reports/assets/plotly-basic.min.js",
    "paretune/reports/assets/plotly-basic.LICENSE",
    "paretune/reports/templates/page.html",
)


def main(path: str) -> int:
    """Check the names inside the wheel."""
    names = zipfile.ZipFile(path).namelist()
    faults = [f"ships {name}" for name in names if name.startswith(FORBIDDEN)]
    faults += [f"puts {name} beside the package" for name in names if not name.startswith("paretune")]
    faults += [f"lacks {need}" for need in NEEDED if not any(name.startswith(need) for name in names)]
    print(
        "\n".join(faults)
        or f"{path.rsplit('/', 1)[-1]}: {len(names)} files, nothing foreign, nothing missing"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
