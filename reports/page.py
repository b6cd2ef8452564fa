"""``report.html``: one file that opens offline, with everything it needs inside."""

from __future__ import annotations

from pathlib import Path

from paretune.reports.markup import Safe, element, joined, json_script
from paretune.reports.numerals import duration
from paretune.reports.reading import RunFolder
from paretune.reports.sections.compared import compared_section
from paretune.reports.sections.evidence import (
    capability_section,
    front_section,
    latency_section,
    layer_section,
)
from paretune.reports.sections.headline import headline
from paretune.reports.sections.provenance import provenance_section, refused_section
from paretune.reports.sections.rivals import probe_section
from paretune.reports.sections.section import Section
from paretune.reports.sections.spending import spending_section

_ASSETS = Path(__file__).parent / "assets"


def render_page(folder: RunFolder) -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    sections = _sections(folder)
    figures = {figure.name: figure.to_dict() for section in sections for figure in section.figures}
    name = _short(str(folder.run.model.get("source", "model")))
    head = joined(
        [
            Safe('<meta charset="utf-8">'),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("link", rel="icon", href="data:,"),
            element("title", f"Paretune: {name}"),
            element("style", Safe(_asset("style.css"))),
        ]
    )
    body = joined(
        [
            _banner(folder, name),
            _contents(sections),
            element("main", *(section.html() for section in sections)),
            _footer(folder),
            json_script("figures", figures),
            element("script", Safe(get_plotlyjs())),
            element("script", Safe(_asset("page.js"))),
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _sections(folder: RunFolder) -> list[Section]:
    found = (
        headline(folder),
        front_section(folder),
        compared_section(folder),
        layer_section(folder),
        capability_section(folder),
        latency_section(folder),
        probe_section(folder),
        spending_section(folder),
        refused_section(folder),
        provenance_section(folder),
    )
    return [section for section in found if section is not None]


def _banner(folder: RunFolder, name: str) -> Safe:
    run = folder.run
    device = str(run.device.get("label") or run.device.get("name") or "")
    load = run.workload
    tokens = f"{load.get('prompt_tokens', '?')} + {load.get('output_tokens', '?')} tokens"
    lengths = f"batch {load.get('batch', 1)}, {tokens}"
    spent = sum(run.spent.values())
    facts = [device, run.engine, lengths, duration(spent) if spent else "", run.created[:10]]
    line = joined([element("span", fact) for fact in facts if fact])
    return element(
        "header",
        element("p", "Paretune", class_="brand"),
        element("h1", name),
        element("p", line, class_="facts"),
    )


def _contents(sections: list[Section]) -> Safe:
    links = [element("a", section.short, href=f"#{section.name}") for section in sections]
    return element("nav", *links, aria_label="Contents")


def _footer(folder: RunFolder) -> Safe:
    version = folder.run.versions.get("paretune", "")
    words = "1 MB is 10^6 bytes. front.csv and front.json beside this page have its numbers with all digits."
    return element("footer", f"Paretune {version}".strip(), ". ", words)


def _short(source: str) -> str:
    parts = [part for part in source.split("/") if part]
    # OWNER/NAME of a hub stays whole; of a longer or absolute path the last part is the name.
    return source if len(parts) == 2 and not source.startswith("/") else (parts or [source])[-1]


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
