"""compared.json: its schema, its rows in the report, and what they are held against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.reports.compared import (
    FILE,
    ComparedFile,
    ComparedModel,
    beside_front,
    compared_hashes,
    nearest_member,
)
from paretune.reports.reading import RunFolder, read_run_folder
from paretune.reports.report import render_page, write_report
from paretune.reports.summary import summarize_compared
from paretune.spaces.errors import RunError
from paretune.spaces.files import write_document, write_json
from paretune.spaces.measurement import Measurement
from paretune.spaces.schema import sealed, unsealed
from paretune.spaces.statistics import measure, numbered
from tests.reports.synthetic import WINDOWS
from tests.reports.test_page import Page


def windows_of(values: list[float], unit: str = "nat") -> Measurement:
    return measure(values, numbered(len(values)), unit=unit)


def model(folder: RunFolder, label: str = "sibling", same: bool = True, **more: Measurement) -> ComparedModel:
    """As good as the recommended configuration less 0.01 nat, and a tenth larger."""
    recommended = next(member for member in folder.front.members if member.name == folder.front.recommended)
    found = {
        "weight_bytes": Measurement(value=1.1 * (recommended.value("weight_bytes") or 0), unit="B"),
        "memory_bytes": Measurement(value=1.1 * (recommended.value("memory_bytes") or 0), unit="B"),
        "task.recall": Measurement(value=0.5, stderr=0.03, n=200),
        **more,
    }
    if same:
        kl = recommended.measurements["kl"].per_window or ()
        found["kl"] = windows_of([value + 0.01 for value in kl])
    return ComparedModel(
        label=label, source="somewhere", hash="1" * 64, numbers="fp8", loaded_by="transformers 5",
        same_tokenizer=same, measurements=found, notes=() if same else ("another tokenizer",),
    )  # fmt: skip


def write(run: Path, *models: ComparedModel) -> RunFolder:
    file = ComparedFile(
        hashes=compared_hashes(read_run_folder(run).run),
        predicted_tokens=255,
        window_bytes=(600,) * WINDOWS,
        models=models,
    )
    write_document(run / FILE, file)
    return read_run_folder(run)


def test_a_run_without_the_file_has_no_section(run: Path) -> None:
    folder = read_run_folder(run)
    assert folder.compared is None
    assert "compared, not searched" not in Page(render_page(folder)).words


def test_the_same_label_is_replaced_in_its_place(run: Path) -> None:
    folder = read_run_folder(run)
    first, second = model(folder, "one"), model(folder, "two")
    file = ComparedFile(hashes={}, predicted_tokens=1, window_bytes=(1,)).with_model(first).with_model(second)
    again = file.with_model(first.model_copy(update={"source": "elsewhere"}))
    assert [(row.label, row.source) for row in again.models] == [("one", "elsewhere"), ("two", "somewhere")]
    assert ComparedFile.from_json(again.to_json()) == again


def test_unknown_keys_and_other_runs_are_refused(run: Path) -> None:
    write(run, model(read_run_folder(run)))
    good = unsealed(json.loads((run / FILE).read_text()))
    for change, expected in (
        ({"colour": 1}, "colour"),
        ({"schema_version": 2}, "of version 2"),
        ({"hashes": {"model": "other"}}, "another model"),
    ):
        write_json(run / FILE, sealed({**good, **change}))
        with pytest.raises(RunError, match=expected):
            read_run_folder(run)
    (run / FILE).write_text("{")
    with pytest.raises(RunError):
        write_report(run)


def test_it_stands_beside_the_nearest_member(run: Path) -> None:
    folder = write(run, model(read_run_folder(run)))
    assert folder.compared is not None
    sizes = {m.name: m.value("weight_bytes") or 0.0 for m in folder.front.members if m.on_front}
    for name, size in sizes.items():
        found = nearest_member(folder.front, size)
        assert found is not None
        assert sizes[found.name] == size, name
    (beside,) = beside_front(folder.compared, folder.front)
    rows = {row.heading: row for row in beside.rows}
    assert set(rows) >= {"size", "memory", "KL (nat)", "perplexity", "recall", "arithmetic"}
    assert rows["KL (nat)"].clear
    assert "unpaired" not in rows["KL (nat)"].gap
    assert rows["recall"].gap.endswith("(unpaired)")
    assert rows["arithmetic"].own == rows["arithmetic"].gap == ""
    assert rows["perplexity"].own == ""
    assert rows["perplexity"].nearest


def test_paired_difference_is_exact(run: Path) -> None:
    folder = read_run_folder(run)
    size = next(m.value("weight_bytes") for m in folder.front.members if m.name == folder.front.recommended)
    same = model(folder, weight_bytes=Measurement(value=size or 0.0, unit="B"))
    folder = write(run, same)
    assert folder.compared is not None
    (beside,) = beside_front(folder.compared, folder.front)
    assert beside.member is not None
    assert beside.member.name == folder.front.recommended
    (row,) = [row for row in beside.rows if row.heading == "KL (nat)"]
    assert row.gap.startswith("+0.010 ")
    (size_row,) = [row for row in beside.rows if row.heading == "size"]
    assert size_row.gap == "unchanged"


def test_the_front_figure_has_a_marker_or_a_line(run: Path) -> None:
    folder = write(run, model(read_run_folder(run)), model(read_run_folder(run), "another", same=False))
    figures = Page(render_page(folder)).figures
    view = figures["front"]["views"][0]
    (trace,) = [trace for trace in view["data"] if trace.get("name") == "compared, not searched"]
    assert trace["text"] == ["sibling"]
    assert folder.compared is not None
    assert trace["y"] == [folder.compared.models[0].value("kl")]
    assert "compared, not searched" in trace["hovertext"][0]
    notes = [note["text"] for note in view["layout"]["annotations"]]
    assert "another (no KL: another tokenizer)" in notes
    assert len(view["layout"]["shapes"]) == len(notes)
    panels = [figure["views"][0] for name, figure in figures.items() if name.startswith("retention-")]
    crossed = [p for p in panels if any(t["name"].startswith("compared") and t["x"] for t in p["data"])]
    assert [panel["data"][2]["hovertext"][0].split(":")[0].split("<br>")[1] for panel in crossed] == [
        "recall"
    ]


def test_axes_reach_what_was_compared(run: Path) -> None:
    folder = read_run_folder(run)
    far = model(folder, weight_bytes=Measurement(value=1e9, unit="B"))
    far = far.model_copy(update={"measurements": {**far.measurements, "kl": windows_of([7.0, 8.0])}})
    view = Page(render_page(write(run, far))).figures["front"]["views"][0]
    (trace,) = [trace for trace in view["data"] if trace.get("name") == "compared, not searched"]
    assert view["layout"]["xaxis"]["range"][1] > trace["x"][0]
    assert 10 ** view["layout"]["yaxis"]["range"][1] > 7.5
    assert trace["textposition"] == ["top left"]


def test_names_of_neighbours_stand_apart(run: Path) -> None:
    folder = read_run_folder(run)
    near = [model(folder, label) for label in ("one", "two", "three")]
    view = Page(render_page(write(run, *near))).figures["front"]["views"][0]
    (trace,) = [trace for trace in view["data"] if trace.get("name") == "compared, not searched"]
    assert len(set(trace["textposition"])) == 3


def test_figures_are_what_plotly_accepts_and_names_stay_text(run: Path) -> None:
    import plotly.graph_objects as go

    from tests.reports.test_page import coloured

    hostile = "</script><img src=x onerror=alert(2)>\"'&"
    bad = model(read_run_folder(run), hostile).model_copy(update={"source": hostile, "notes": (hostile,)})
    page = Page(render_page(write(run, bad)))
    assert not any(tag == "img" for tag, _ in page.tags)
    for figure in page.figures.values():
        for view in figure["views"]:
            go.Figure(data=coloured(view["data"]), layout=coloured(view["layout"]))


def test_the_report_is_redrawn_from_the_file_alone(run: Path) -> None:
    write(run, model(read_run_folder(run)))
    words = Page(write_report(run).read_text()).words
    assert words.count("compared, not searched") >= 2  # the table of all rows, and the section
    assert "Beside other models" in words
    assert "sibling" not in (run / "front.csv").read_text()


def test_the_terminal_table(run: Path) -> None:
    write(run, model(read_run_folder(run)), model(read_run_folder(run), "another", same=False))
    text = summarize_compared(run, width=100)
    assert "sibling: compared, not searched (fp8, transformers 5)" in text
    assert "! another tokenizer" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "another:" not in summarize_compared(run, ["sibling"], width=100)
