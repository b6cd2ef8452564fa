"""The front beside uniform configurations: ``python -m benchmarks.uniforms embedded=RUN reference-48m=RUN``.

Reads finished run folders and writes ``results/uniforms.csv``: for every uniform row from 3 to 5 bits that no other
of its width beats (method, width of embedding and head, cache), the member of least KL on the search text among those
of the reported front that are no larger, and the difference of their KLs, paired by window of the report text. That
text still decides one thing: which members are on the reported front at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tables import write_table
from paretune.reports.reading import read_front, read_run_folder
from paretune.spaces.result import Member
from paretune.spaces.statistics import difference

COLUMNS = (
    "model", "uniform", "num_bits", "weight_bytes", "kl", "kl_stderr", "member", "member_weight_bytes",
    "member_kl", "difference", "difference_stderr", "report_tokens", "device",
)  # fmt: skip
WIDTHS = (3, 4, 5)


def main() -> None:
    """Write the table; exit code 1 if a uniform row is not beaten by two paired standard errors."""
    if len(sys.argv) < 2 or not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    rows: list[dict[str, object]] = []
    for argument in sys.argv[1:]:
        model, folder = argument.split("=", 1)
        rows += compare(model, Path(folder))
    write_table("uniforms", COLUMNS, rows)
    lost = [r for r in rows if float(str(r["difference"])) < 2 * float(str(r["difference_stderr"]))]
    for row in rows:
        print("lost" if row in lost else "won ", *(row[c] for c in COLUMNS[:11]))
    raise SystemExit(1 if lost else 0)


def compare(model: str, folder: Path) -> Iterator[dict[str, object]]:
    """One row a uniform configuration."""
    front = read_front(folder)
    run = read_run_folder(folder).run
    text = run.texts["report"]
    members = [m for m in front.members if m.on_front and m.kind == "searched"]
    for uniform in front.members:
        bits = str(uniform.uniform.bits) if uniform.uniform else ""
        if not bits.isdigit() or int(bits) not in WIDTHS:
            continue
        size = float(uniform.value("weight_bytes") or 0.0)
        smaller = [m for m in members if float(m.value("weight_bytes") or 0.0) <= size]
        if not smaller:
            raise SystemExit(f"{folder} reports no member as small as {uniform.name}: search for longer")
        best = min(smaller, key=_search_kl)
        gap = difference(uniform.measurements["kl"], best.measurements["kl"])
        kl = uniform.measurements["kl"]
        yield {
            "model": model, "uniform": uniform.name, "num_bits": bits, "weight_bytes": int(size),
            "kl": f"{kl.value:.6g}", "kl_stderr": f"{kl.stderr:.3g}", "member": best.name,
            "member_weight_bytes": int(best.value("weight_bytes") or 0), "member_kl": f"{best.value('kl'):.6g}",
            "difference": f"{gap.value:.6g}", "difference_stderr": f"{gap.stderr:.3g}",
            "report_tokens": text["windows"] * text["window_tokens"], "device": run.device["name"],
        }  # fmt: skip


def _search_kl(member: Member) -> float:
    found = member.value("kl_search")
    if found is None:
        raise ValueError(f"{member.name} has no KL on the search text; search with it as an objective")
    return found


if __name__ == "__main__":
    main()
