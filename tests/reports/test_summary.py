"""The terminal summary: one screen, plain where there is no terminal, the truth included."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.reports.reading import read_front, read_run_folder
from paretune.reports.summary import _gguf_words, summarize
from paretune.spaces.files import write_document
from paretune.spaces.result import LatencyCheck


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
    recommended = read_front(run).recommended
    assert f"recommended: {recommended}" in text
    assert "of the dense model's 7.48 MB" in text
    assert "times less than uniform-4" in text
    assert f"{recommended} *" in text
    assert f"task scores of {recommended} beside the dense model's: agreement" in text
    assert "Predicted decode latency is off by" in text
    assert f"paretune check runs/demo/export/{recommended} --base demo/model" in text
    assert str(run / "report.html") in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_are_never_cut(run: Path, width: int) -> None:
    text = summarize(run, width=width)
    assert read_front(run).recommended in text
    assert "uniform-4" in text


@pytest.mark.parametrize(("width", "gone"), [(70, "same top"), (50, "KL (nat)"), (160, "")])
def test_what_does_not_fit_is_left_out_and_never_cut(run: Path, width: int, gone: str) -> None:
    long = {name: f"{name}-gptq-embedding8-kv8" for name in ("uniform-4", "dense")}
    front = read_front(run)
    members = [m.model_copy(update={"name": long.get(m.name, m.name)}) for m in front.members]
    write_document(run / "front.json", front.model_copy(update={"members": tuple(members)}))
    text = summarize(run, width=width)
    table = text[text.index("front: ") :].split("\n\n")[0]
    assert "…" not in text
    assert not gone or gone not in table
    assert "size" in table
    assert ("predicted" in table) == (width == 160)


def test_an_interrupted_run_says_so_and_how_to_go_on(run: Path) -> None:
    found = read_run_folder(run).run
    stopped = found.model_copy(update={"status": "interrupted", "export": None})
    write_document(run / "run.json", stopped)
    text = summarize(run, width=100)
    assert "! The run is interrupted" in text
    assert f"paretune search --run-file {run}/run.json --out {run}" in text
    assert f"paretune export {run}" in text


def test_markup_in_names_is_text(run: Path) -> None:
    found = read_run_folder(run).run
    hostile = found.model_copy(update={"model": {"source": "[red]x[/red] :smile:"}})
    write_document(run / "run.json", hostile)
    assert "[red]x[/red] :smile:" in summarize(run, width=100)


def test_a_gguf_without_an_answer_is_told_without_one():
    written = {"folder": "here", "kl": 0.1, "prompt": "first\nask", "unanswered": "ran out of memory"}
    assert _gguf_words(written) == "\nthe same as GGUF in here: KL 0.10 in llama.cpp"
    assert "answers 'ask' with 'so'" in _gguf_words({**written, "answer": " so "})


def changed_run(run: Path, **values: object) -> str:
    """The summary with other facts in ``run.json``."""
    found = read_run_folder(run).run
    write_document(run / "run.json", found.model_copy(update=values))
    return " ".join(summarize(run, width=100).split())


def picking(run: Path, name: str) -> None:
    front = read_front(run).model_copy(update={"recommended": name})
    write_document(run / "front.json", front)


@pytest.mark.parametrize(
    ("ended", "bounds", "said", "remedy"),
    [
        ("minutes", {"minutes": 0.4}, "The search reached its bound of 0.4 minutes", "more --minutes."),
        (
            "evaluations",
            {"max_evaluations": 3},
            "The search reached its bound of 3 evaluations",
            "--max-evaluations.",
        ),
        (
            "candidates",
            {"max_candidates": 2},
            "The search reached its bound of 2 candidates",
            "more max_candidates in",
        ),
        (
            "exhausted",
            {},
            "The search ended as every point of the space was proposed",
            "all there is to take.",
        ),
        ("", {}, "The search ended", "the same command goes on."),
    ],
)
def test_a_uniform_pick_is_no_success_of_the_search(
    run: Path, ended: str, bounds: dict[str, float], said: str, remedy: str
) -> None:
    """Which bound ended the search is said, in the heading too, and never that the run is complete."""
    picking(run, "uniform-4")
    records = {"baseline": 9, "probe": 3, "marginal": 20}
    text = changed_run(run, records=records, ended=ended, settings={"search": bounds})
    assert f"in all. {said}." in text
    assert f"{said} before a mixed candidate was measured" in text
    assert remedy in text
    assert "complete" not in text
    assert "uniform-4 needs no search" in changed_run(run, records={"baseline": 9, "paretune": 40})
    assert "the best uniform configuration that is no larger" not in text


def test_times_in_different_orders_are_no_claim(run: Path) -> None:
    name = read_front(run).recommended
    checks = tuple(
        LatencyCheck(name=name, digest=str(i), predicted_s=1.0 + i, measured_s=9.0 - i) for i in range(6)
    )
    text = changed_run(run, latency_checks=checks)
    assert "nothing is claimed about speed" in text
    assert "decodes a token" not in text


def test_an_export_that_was_not_loaded_is_verified_elsewhere_first(run: Path) -> None:
    name = read_front(run).recommended
    export = {
        "name": name,
        "folder": "runs/e",
        "engine": "vllm",
        "launch": "vllm serve runs/e",
        "not_loaded": "no GPU",
    }
    text = changed_run(run, export=export)
    assert "The recommended configuration was exported and not verified here: no GPU" in text
    assert text.index("--bundle") < text.index("vllm serve runs/e")


def test_an_export_that_is_wrong_is_not_offered(run: Path) -> None:
    name = read_front(run).recommended
    text = changed_run(run, export={"name": name, "folder": "runs/e", "failed": "it differs"})
    assert "do not deploy it: it differs" in text
    assert f"paretune export {run} --name {name}" in text
    assert "paretune check" not in text


def test_no_column_of_times_without_times(run: Path) -> None:
    front = read_front(run)
    members = [
        m.model_copy(
            update={"measurements": {k: v for k, v in m.measurements.items() if not k.startswith("tpot")}}
        )
        for m in front.members
    ]
    write_document(run / "front.json", front.model_copy(update={"members": tuple(members)}))
    text = changed_run(run, latency_checks=())
    assert "time/token" not in text
    assert "Times are not known" in text


def test_an_error_of_prediction_is_said_once(run: Path) -> None:
    checks = tuple(
        LatencyCheck(name="p1", digest=str(i), predicted_s=0.5 * i, measured_s=i) for i in range(1, 4)
    )
    text = changed_run(run, latency_checks=checks)
    assert text.count("redicted latency") + text.count("redicted decode latency") == 1
    assert "Predicted latency is off by up to 50 %" in text


def test_a_front_of_uniform_rows_is_not_compared_with_itself(run: Path) -> None:
    front = read_front(run)
    members = [m.model_copy(update={"on_front": m.kind in ("uniform", "dense")}) for m in front.members]
    write_document(run / "front.json", front.model_copy(update={"members": tuple(members)}))
    text = " ".join(summarize(run, width=100).split())
    assert "The front holds uniform configurations alone" in text
    assert "the best uniform configuration that costs as much" not in text
