"""Tables say of every row where it was measured, also of those that stay when others are measured again."""

from __future__ import annotations

import pytest

from benchmarks import bank, gguf_front, tables

COLUMNS, KEY = ("engine", "config", "kl"), ("engine", "config")
NOTE = "kl: nats a token"


@pytest.fixture
def at(monkeypatch, tmp_path):
    """Go to another machine and day."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "_versions", lambda: "python 3")

    def go(machine, day):
        monkeypatch.setattr(tables, "machine", lambda: machine)
        monkeypatch.setattr(tables, "_today", lambda: f"2026-11-{day:02d}")

    return go


def row(engine, config, kl=1):
    return {"engine": engine, "config": config, "kl": kl}


def write(*fresh, notes=(NOTE,)):
    found = tables.beside("table", fresh, KEY)
    tables.write_table("table", COLUMNS, sorted(found, key=lambda one: str(one["config"])), notes)


def header():
    lines = (tables.RESULTS / "table.csv").read_text().splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("#")]


PLAIN = ["machine: laptop", "versions: python 3", "date: 2026-11-01", NOTE]


def test_rows_that_stay_keep_their_machine_and_day(at):
    at("laptop", 1)
    write(row("torch", "a"), row("torch", "b"))
    assert header() == PLAIN
    path = tables.RESULTS / "table.csv"
    path.write_text(f"# written by hand\n{path.read_text()}")
    at("server", 2)
    write(row("vllm", "a"), row("vllm", "b"))
    assert header() == ["written by hand", *PLAIN, "rows of engine vllm, 2026-11-02: server; python 3"]


def test_a_table_that_is_measured_whole_has_one_machine(at):
    at("server", 2)
    write(row("torch", "a"))
    write(row("vllm", "a"))
    at("laptop", 1)
    write(row("torch", "a"), row("vllm", "a"))
    assert header() == PLAIN


def test_a_line_whose_rows_are_all_replaced_goes(at):
    at("laptop", 1)
    write(row("torch", "a"))
    for day, configs, words in ((2, "a", ", config a"), (3, "ab", ""), (4, "ab", "")):
        at("server", day)
        write(*(row("vllm", config) for config in configs))
        assert header() == [*PLAIN, f"rows of engine vllm{words}, 2026-11-{day:02d}: server; python 3"]


def test_a_line_names_no_row_that_stays(at):
    at("laptop", 1)
    write(*(row("vllm", config) for config in "abcd"))
    at("server", 2)
    write(row("vllm", "a"), row("vllm", "b"))
    first = "rows of engine vllm, config a or b, 2026-11-02: server; python 3"
    assert header() == [*PLAIN, first]
    at("server", 3)
    write(row("vllm", "b"))
    assert header() == [*PLAIN, first, "rows of engine vllm, config b, 2026-11-03: server; python 3"]


def test_rows_that_no_values_tell_apart_have_a_line_each(at):
    at("laptop", 1)
    write(row("torch", "b"))
    at("server", 2)
    write(row("torch", "a"), row("vllm", "a"), row("vllm", "b"))
    assert header()[len(PLAIN) :] == [
        "rows of engine torch, config a, 2026-11-02: server; python 3",
        "rows of engine vllm, 2026-11-02: server; python 3",
    ]


def test_notes_are_not_said_twice(at):
    at("laptop", 1)
    write(row("torch", "a"))
    write(row("vllm", "a"), notes=(NOTE, "another"))
    assert header() == [*PLAIN, "another"]  # the same day, machine and versions hold of both rows


def test_a_line_of_other_words_is_never_taken_for_one_of_ours(at):
    at("laptop", 1)
    write(row("torch", "a"))
    path = tables.RESULTS / "table.csv"
    path.write_text(f"# rows of the first hour, 2026-11-01: warm\n{path.read_text()}")
    write(row("vllm", "a"))
    assert header()[0] == "rows of the first hour, 2026-11-01: warm"


def test_an_empty_key_is_the_one_that_was_written(at):
    at("laptop", 1)
    write(row("torch", None), row("torch", "b"))
    write(row("torch", None, kl=2))
    assert [one["kl"] for one in tables.read_table("table")] == ["2", "1"]


def test_times_alone_are_no_new_measurement_of_the_rest(at, monkeypatch, tmp_path):
    at("laptop", 1)
    old = {"model": "embedded", "config": "Q4_K", "kind": "stock", "weight_bytes": 9, "kl": 0.5}
    gguf_front.write([{**old, "tokens_per_s": 7}])
    before = (tables.RESULTS / "gguf_front.csv").read_text().splitlines()
    at("server", 2)
    monkeypatch.setattr(gguf_front, "_readings", lambda *_: {})
    monkeypatch.setattr(gguf_front, "order_agreement", lambda _: "")
    monkeypatch.setattr(gguf_front, "time_in_turns", lambda files: files[0].seconds.append(0.25))
    gguf_front.measure_speeds("embedded", tmp_path, tmp_path)
    after = (tables.RESULTS / "gguf_front.csv").read_text().splitlines()
    added = "# tokens_per_s of embedded, 2026-11-02: server; python 3"
    assert after == [*before[:5], added, before[5], before[6].replace(",7,", ",4,")]


def test_a_bank_on_another_device_is_another_row(at):
    at("server", 1)
    old = {"model": "llama", "device": "H100", "blocks": 4, "step": "rtn", "seconds": 3}
    bank.write([old])
    bank.write([{**old, "device": "H200", "seconds": 2}])
    bank.write([{**old, "seconds": 4}])
    found = {str(one["device"]): one["seconds"] for one in tables.read_table("bank")}
    assert found == {"H100": "4", "H200": "2"}
