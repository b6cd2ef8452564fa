"""report.html: complete, offline, escaped, quick; every figure is what Plotly accepts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from paretune.reports.answer import advantage_words
from paretune.reports.page import make_page
from paretune.reports.reading import RunFolder, read_run_folder
from paretune.reports.report import render_page, write_report
from paretune.reports.tables import Cell
from paretune.spaces.measurement import Measurement
from paretune.spaces.numerals import quantity
from paretune.spaces.result import Advantage, Member
from tests.reports.synthetic import write_run

ASSETS = Path(__file__).parents[2] / "reports" / "assets"
PALETTE = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", (ASSETS / "style.css").read_text().split("@media")[0]))


class Page(HTMLParser):
    """Tags with attributes, text by tag, and the data of the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    @property
    def words(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("script", "style")).replace(
            "\u00a0", " "
        )

    @property
    def figures(self) -> dict[str, Any]:
        found = next(i for i, (tag, attrs) in enumerate(self.tags) if attrs.get("id") == "figures")
        scripts = [data for tag, data in self.texts if tag == "script"]
        before = sum(tag == "script" for tag, _ in self.tags[:found])
        figures: dict[str, Any] = json.loads(scripts[before])
        return figures


@pytest.fixture(scope="module")
def folder(shared_run: Path) -> RunFolder:
    return read_run_folder(shared_run)


@pytest.fixture(scope="module")
def text(folder: RunFolder) -> str:
    return render_page(folder)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def coloured(value: Any) -> Any:
    """What the page's script does: names of colours become colours."""
    if isinstance(value, str) and value.startswith("--"):
        assert value in PALETTE, f"{value} is no colour of the style sheet"
        return PALETTE[value]
    if isinstance(value, list):
        return [coloured(item) for item in value]
    return {key: coloured(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_every_section_is_there(page: Page) -> None:
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == [
        "answer",
        "front",
        "layers",
        "capabilities",
        "latency",
        "probes",
        "cost",
        "refused",
        "provenance",
    ]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links[: len(sections) + 1] == ["#answer", *(f"#{name}" for name in sections)]
    anchors = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(anchors) == len(set(anchors))
    assert {link.removeprefix("#") for link in links if link} <= set(anchors)


def test_the_answer_comes_first(page: Page, folder: RunFolder) -> None:
    words = page.words
    assert words.index(folder.front.recommended) < words.index("The front")
    assert words.count("class=") == 0


def test_figures_are_what_plotly_accepts(page: Page) -> None:
    import plotly.graph_objects as go

    figures = page.figures
    assert {"front", "latency"} <= set(figures)
    assert sum(name.startswith("retention-") for name in figures) == 5
    for figure in figures.values():
        for view in figure["views"]:
            go.Figure(data=coloured(view["data"]), layout=coloured(view["layout"]))


def test_every_figure_has_its_place(page: Page) -> None:
    places = {attrs["id"] for _, attrs in page.tags if "drawing" in (attrs.get("class") or "")}
    assert places == {f"figure-{name}" for name in page.figures}
    assert all(attrs.get("aria-label") for _, attrs in page.tags if attrs.get("role") == "img")


def test_without_a_script_everything_is_there(text: str, folder: RunFolder) -> None:
    """What needs one is hidden until it runs, and words with a table stand in the place of every drawing."""
    unscripted = Page(re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    for tag, attrs in unscripted.tags:
        assert ("hidden" in attrs) == ("scripted" in (attrs.get("class") or "").split())
        assert tag not in ("button", "select") or "scripted" in str(attrs) or "data-view" in attrs
    figures = text.count("<figure")
    assert figures == text.count("<noscript>") == len(make_page(folder).figures) == 7
    assert text.count("<table") == text.count("<caption") >= 8
    for member in folder.front.members:
        assert unscripted.words.count(member.name) >= 2


def test_predicted_and_measured_have_columns_of_their_own(folder: RunFolder) -> None:
    table = make_page(folder).rows
    measured, predicted = (table.headers.index(f"time/token, {how}") for how in ("measured", "predicted"))
    found = {row[0].text: row for row in table.rows if isinstance(row[0], Cell)}
    for member in folder.front.members:
        row = found[member.name]
        assert bool(row[measured]) == (member.value("tpot_s") is not None)
        assert row[predicted] == quantity(member.value("tpot_s_predicted") or 0.0, "s")
    searched = table.headers.index("KL, search text (nat)")
    assert found["uniform-4"][searched] != found["uniform-4"][searched - 1]


def test_what_the_front_is_worth_is_told_in_words(page: Page, folder: RunFolder) -> None:
    words = page.words
    assert "From 1.20 MB to 3.80 MB the front loses 2.1 times less KL" in words
    assert (
        "they lose 1.15 times as much, where uniform configurations, which no search chose, lose 1.02"
        in words
    )
    assert "ypervolume" not in words
    alike = Advantage(metric="kl", cost="weight_bytes", ratio=1.0, low=2e6, high=2e6)
    assert advantage_words(folder.front.model_copy(update={"advantage": alike})).startswith(
        "At 2.00 MB the front loses as much KL"
    )
    bare = folder.front.model_copy(update={"advantage": None, "optimism": None})
    plain = Page(render_page(RunFolder(folder.path, bare, folder.run, folder.trials))).words
    assert "chosen on the search text" not in plain
    assert "geometric mean" not in plain


def test_no_other_script_may_run(text: str, page: Page) -> None:
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a) or ""
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digests = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_nothing_is_loaded_from_elsewhere(text: str, page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(name) or ""
            assert not re.match(r"\s*(https?:)?//", value), f"<{tag} {name}={value}>"
    own = (ASSETS / "style.css").read_text() + (ASSETS / "page.js").read_text()
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|import\(", own)
    assert not any(tag in ("iframe", "object", "embed", "base") for tag, _ in page.tags)


def test_plotly_is_inside_once(text: str, page: Page) -> None:
    assert text.count("* plotly.js (basic - minified) v") == 1
    assert "Licensed under the MIT license" in text
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert len(text) < 1.6e6


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    folder = read_run_folder(write_run(tmp_path / "run", source=hostile))
    members = tuple(
        member.model_copy(update={"name": hostile, "note": hostile})
        if member.name == folder.front.recommended
        else member
        for member in folder.front.members
    )
    notes = folder.run.model_copy(update={"notes": (hostile,), "texts": {hostile: {"path": hostile}}})
    front = folder.front.model_copy(
        update={"recommended": hostile, "members": members, "recommended_reason": hostile}
    )
    page = Page(render_page(RunFolder(folder.path, front, notes, folder.trials)))
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert hostile in page.words
    drawn = json.dumps(page.figures["front"])
    assert "&lt;img" in drawn
    assert "<img" not in drawn


def test_classes_are_one_marker_and_one_band(folder: RunFolder, page: Page) -> None:
    members = [m for m in folder.front.members if m.on_front and m.kind == "searched"]
    classes = {m.equivalence_class for m in members}
    assert len(classes) == len(members) - 1
    traces = page.figures["front"]["views"][0]["data"]
    markers = sum(len(trace["x"]) for trace in traces if trace.get("name") in ("front", "recommended"))
    assert markers == len(classes)
    assert sum(trace.get("name") == "cannot be told apart" for trace in traces) == 1


def test_error_bars_stay_above_zero(page: Page) -> None:
    for trace in page.figures["front"]["views"][0]["data"]:
        for level, down in zip(trace["y"], trace.get("error_y", {}).get("arrayminus", []), strict=False):
            assert 0 <= down < level


def test_hovers_say_the_configuration_in_words(page: Page) -> None:
    traces = {trace.get("name"): trace for trace in page.figures["front"]["views"][0]["data"]}
    uniform = traces["uniform"]["hovertext"][2]
    assert "<b>uniform-4</b>" in uniform
    assert "linears: 4 bit" in uniform
    assert "KV cache: 8 bit" in uniform
    assert "pruned: 5 of 6 blocks" in traces["pruned"]["hovertext"][0]


def test_the_layer_map_shows_bits_zeros_and_cuts(folder: RunFolder) -> None:
    maps = {found.name.split(" ")[0]: found for found in make_page(folder).maps}
    pruned = maps["pruned-blocks5"]
    assert "pruned: 5 of 6 blocks" in pruned.words
    assert [part for part, _ in pruned.rows] == ["qkv", "o", "gate_up", "down"]
    assert [cells[0] for _, cells in pruned.rows] == [
        ("×", "cut", f"blocks.0.{part}: this block is cut") for part, _ in pruned.rows
    ]
    assert [cells[1][:2] for _, cells in pruned.rows if cells[1]] == [("4", "bits-4")] * 4
    sparse = maps["sparse-50-2:4"]
    dotted = [part for part, cells in sparse.rows if all(cell and cell[0] == "4 •" for cell in cells)]
    assert dotted == ["gate_up", "down"]
    assert "zeros: 50 % (2:4) in 12 of 24 groups" in sparse.words
    assert len(maps) == len({m.name for m in folder.front.members if m.on_front or m.kind == "probe"})


def test_a_run_with_nothing_but_a_front(folder: RunFolder) -> None:
    """Interrupted before tasks, latency and export; no records, no groups."""
    bare = folder.run.model_copy(
        update={
            "status": "interrupted",
            "latency_checks": (),
            "tasks": {},
            "spent": {},
            "export": None,
            "groups": (),
            "refused": {},
            "notes": (),
            "evaluations": 0.0,
        }
    )
    members = tuple(_without_tasks(member) for member in folder.front.members)
    front = folder.front.model_copy(update={"members": members})
    page = Page(render_page(RunFolder(folder.path, front, bare, ())))
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == [
        "answer",
        "front",
        "probes",
        "provenance",
    ]
    assert "The run is interrupted" in page.words


def test_an_empty_front_says_so(folder: RunFolder) -> None:
    front = folder.front.model_copy(update={"members": (), "recommended": ""})
    page = Page(render_page(RunFolder(folder.path, front, folder.run, folder.trials)))
    assert "No candidate meets the limits" in page.words
    dense = [member for member in folder.front.members if member.kind == "dense"]
    alone = front.model_copy(update={"members": tuple(dense), "limits": ()})
    page = Page(render_page(RunFolder(folder.path, alone, folder.run, folder.trials)))
    assert "Nothing but the dense model was read" in page.words
    assert "No candidate meets" not in page.words


def test_a_pick_that_is_no_better_than_uniform_is_not_praised(folder: RunFolder) -> None:
    best = next(m for m in folder.front.members if m.name == "uniform-4")
    recommended = next(m for m in folder.front.members if m.name == folder.front.recommended)
    worse = recommended.model_copy(
        update={"measurements": {**recommended.measurements, "kl": _doubled(best.measurements["kl"])}}
    )
    members = tuple(worse if m.name == recommended.name else m for m in folder.front.members)
    front = folder.front.model_copy(update={"members": members})
    page = Page(render_page(RunFolder(folder.path, front, folder.run, folder.trials)))
    assert "The recommended configuration is worse than uniform-4" in page.words
    assert "2.0 times more than" in page.words


def test_writing_is_quick_and_whole(run: Path) -> None:
    begin = time.process_time()
    path = write_report(run)
    assert time.process_time() - begin < 2.0
    assert path == run / "report.html"
    assert sorted(p.name for p in run.iterdir()) == [
        "front.csv",
        "front.json",
        "records.jsonl",
        "report.html",
        "run.json",
    ]


def _without_tasks(member: Member) -> Member:
    kept = {name: found for name, found in member.measurements.items() if not name.startswith("task.")}
    return member.model_copy(update={"measurements": kept})


def _doubled(found: Measurement) -> Measurement:
    windows = tuple(2 * value for value in found.per_window or ())
    return found.model_copy(update={"value": 2 * found.value, "per_window": windows})
