"""The terminal summary: one screen, plain where there is no terminal, the truth included."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.reading import read_front
from reports.summary import _gguf_words, summarize
from spaces.result import RunDocument


def test_it_fits_a_screen_and_is_plain(run: Path) -> None:
    text = summarize(run, width=100)
    lines = text.splitlines()
    assert len(lines) <= 36
    assert "\x1b" not in text
    assert all(len(line) <= 100 for line in lines if "paretune " not in line and str(run) not in line)


def test_colours_on_a_terminal(run: Path) -> None:
    assert "\x1b[" in summarize(run, width=100, color=True)


def test_it_says_what_was_found(run: Path) -> None:
    text = summarize(run, width=100)
    pick = read_front(run).pick
    assert f"pick {pick}" in text
    assert "of the dense model's 7.48 MB" in text
    assert "times less than uniform-4" in text
    assert f"{pick} *" in text
    assert "keeps of the dense model's scores: agreement" in text
    assert "Predicted decode latency is off by" in text
    assert f"paretune check runs/demo/export/{pick} --base demo/model" in text
    assert str(run / "report.html") in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_are_never_cut(run: Path, width: int) -> None:
    text = summarize(run, width=width)
    assert read_front(run).pick in text
    assert "uniform-4" in text


def test_an_interrupted_run_says_so_and_how_to_go_on(run: Path) -> None:
    found = RunDocument.from_json((run / "run.json").read_text())
    stopped = found.model_copy(update={"status": "interrupted", "export": None})
    (run / "run.json").write_text(stopped.to_json())
    text = summarize(run, width=100)
    assert "! The run is interrupted" in text
    assert f"paretune search demo/model --out {run}" in text
    assert f"paretune export {run}" in text


def test_markup_in_names_is_text(run: Path) -> None:
    found = RunDocument.from_json((run / "run.json").read_text())
    hostile = found.model_copy(update={"model": {"source": "[red]x[/red] :smile:"}})
    (run / "run.json").write_text(hostile.to_json())
    assert "[red]x[/red] :smile:" in summarize(run, width=100)


def test_a_gguf_without_an_answer_is_told_without_one():
    written = {"folder": "here", "kl": 0.1, "prompt": "first\nask", "unanswered": "ran out of memory"}
    assert _gguf_words(written) == "\nthe same as GGUF in here: KL 0.10 in llama.cpp"
    assert "answers 'ask' with 'so'" in _gguf_words({**written, "answer": " so "})
