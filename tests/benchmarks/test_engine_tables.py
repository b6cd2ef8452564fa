"""Programs that measure engines: which configurations they draw, which rows stay, and that nothing waits for ever."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import engines as program
from benchmarks import gguf_front, serving, tables
from benchmarks.random_configs import Named, random_illegal, random_legal
from paretune import demo
from paretune.engines import find_engine
from paretune.engines.manifest import SCHEMA_VERSION
from paretune.engines.vllm_engine import Vllm
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.files import write_json
from paretune.spaces.measurement import Fidelity, Measurement
from paretune.spaces.schema import sealed
from tests.fakes import tiny_moe_spec


@pytest.fixture
def results(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "machine", lambda: "test")
    return tmp_path / "results"


def engine_row(config, **changes):
    row = {"engine": "vllm", "model": "embedded", "config": config, "device": "cpu", "loaded": "true"}
    return {**row, **changes}


def test_only_rows_that_are_measured_again_are_replaced(results):
    old = [engine_row("random-00"), engine_row("random-03"), engine_row("random-03", device="h100")]
    program.write_rows([*old, engine_row("random-03", model="reference-48m")])
    program.write_rows([engine_row("random-03", loaded="false")])
    found = {
        (row["config"], row["model"], row["device"]): row["loaded"] for row in tables.read_table("engines")
    }
    assert found == {
        ("random-00", "embedded", "cpu"): "true",
        ("random-03", "embedded", "cpu"): "false",
        ("random-03", "embedded", "h100"): "true",
        ("random-03", "reference-48m", "cpu"): "true",
    }


@pytest.mark.parametrize(("asked", "refused"), [("h100", True), ("h200", False), (None, False)])
def test_a_device_that_the_engine_does_not_run_on_is_refused_before_anything_is_read(
    monkeypatch, asked, refused
):
    class OpenedError(Exception):
        pass

    def open_bench(*_):
        raise OpenedError

    monkeypatch.setattr(Vllm, "here", lambda self: "h200")
    monkeypatch.setattr(program, "open_bench", open_bench)
    monkeypatch.setattr("sys.argv", ["engines", "--engine", "vllm", *(["--device", asked] if asked else [])])
    with pytest.raises(SystemExit if refused else OpenedError) as found:
        program.main()
    assert not refused or str(found.value) == (
        "--device h100: rows name the device that vllm runs on, here h200. "
        "Leave --device out, or run this on h100"
    )


def test_illegal_rows_of_other_configurations_stay(results, monkeypatch, tmp_path):
    old = [{"engine": "torch-cpu", "config": f"illegal-{i:02d}", "refused": "false"} for i in range(3)]
    tables.write_table("illegal", program.ILLEGAL_COLUMNS, old)
    monkeypatch.setattr(program, "random_illegal", lambda *_: [Named("illegal-01", CompressionConfig())])
    bench = SimpleNamespace(
        assembler=SimpleNamespace(spec=read_model(demo.MODEL)), source=SimpleNamespace(folder=demo.MODEL)
    )

    class Refusing:
        name = "torch-cpu"

        def export(self, *_):
            raise EngineError("it", "is refused", "Take another")

    program.record_illegal(bench, Refusing(), "cpu", 1, tmp_path)
    found = {row["config"]: row["refused"] for row in tables.read_table("illegal")}
    assert found == {"illegal-00": "false", "illegal-01": "true", "illegal-02": "false"}


def test_a_model_that_an_engine_takes_nothing_of_ends_the_draw():
    with pytest.raises(EngineError, match="0 were found in 100 draws; it takes nothing of it: experts"):
        random_legal(find_engine("onnxruntime"), "cpu", tiny_moe_spec(), count=2)


def test_illegal_configurations_are_refused_and_some_are_pruned_sizes():
    engine, spec = find_engine("transformers"), read_model(demo.MODEL)
    found = list(random_illegal(engine, "cpu", spec, count=5))
    assert len(found) == 5
    for named in found:
        assert not engine.export_ruling(spec, named.config), named
    assert [named for named in found if not engine.legality("cpu").pruned(spec, named.config.pruned)]


def test_whoever_waits_for_a_turn_is_let_go_when_the_program_is_stopped(monkeypatch, tmp_path):
    went = []

    def speed(self, folder, *_, loaded, go, **settings):
        Path(loaded).touch()
        until = time.monotonic() + 20
        while time.monotonic() < until and not Path(go).exists():
            time.sleep(0.01)
        went.append(Path(go).exists())
        return {}

    def stopped(turn):
        raise KeyboardInterrupt

    monkeypatch.setattr(Vllm, "speed", speed)
    monkeypatch.setattr(serving, "timed", stopped)
    served = [serving.Served("model", str(i), 1, tmp_path) for i in range(2)]
    with pytest.raises(KeyboardInterrupt):
        serving.time_all(served, tmp_path)
    assert went == [True, True]


def test_nothing_is_timed_while_another_still_loads(results, monkeypatch, tmp_path):
    events = []

    def speed(self, folder, *_, loaded, go, **settings):
        time.sleep({"quick": 0.0, "slow": 1.0, "refused": 0.5}[folder.name])
        if folder.name == "refused":
            events.append("refused ends")
            raise EngineError("it", "is refused", "Take another")
        Path(loaded).touch()
        events.append(f"{folder.name} sleeps")
        while not Path(go).exists():
            time.sleep(0.01)
        events.append(f"{folder.name} runs")
        time.sleep(0.1)
        events.append(f"{folder.name} ends")
        row = {"batch": 1, "ttft_s": 1.0, "tpot_s": 1.0, "tokens_per_s": 1.0, "total_spread_s": 0.0}
        return {"vllm": "0", "device": "gpu", "start_s": 0.0, "rows": [row]}

    monkeypatch.setattr(Vllm, "speed", speed)
    names = ("quick", "refused", "slow")
    serving.time_all([serving.Served("model", name, 1, tmp_path / name) for name in names], tmp_path)
    loads, runs = ["quick sleeps", "refused ends", "slow sleeps"], ["quick runs", "quick ends"]
    assert events == [*loads, *runs, "slow runs", "slow ends"]
    assert [row["config"] for row in tables.read_table("serving")] == ["quick", "slow"]


def test_configurations_of_one_run_are_one_line_beside_rows_of_another(results, monkeypatch, tmp_path):
    serving.write([{"model": "other", "config": "a", "device": "card", "batch": 1}])
    monkeypatch.setattr(tables, "machine", lambda: "another machine")
    monkeypatch.setattr(
        serving, "timed", lambda turn: [{"model": "model", "config": turn.served.config, "device": "card"}]
    )
    monkeypatch.setattr(Vllm, "speed", lambda *_, **__: {})
    serving.time_all([serving.Served("model", str(i), 1, tmp_path) for i in range(3)], tmp_path)
    lines = (results / "serving.csv").read_text().splitlines()
    assert [line.split(", ")[0] for line in lines if line.startswith("# rows of")] == [
        "# rows of model model"
    ]


def test_a_gguf_file_has_its_name_only_when_it_is_whole(monkeypatch, tmp_path):
    bench = SimpleNamespace(spec=None, bank=None, model_folder=None)
    path = tmp_path / "f32.gguf"

    def write(*arguments, fails, **_):
        arguments[-1].write_text("half" if fails else "whole")
        if fails:
            raise OSError("no space left")

    monkeypatch.setattr(gguf_front, "write_gguf", lambda *a, **k: write(*a, fails=True, **k))
    with pytest.raises(OSError, match="space"):
        gguf_front.write_once(bench, CompressionConfig(), path, name="dense")
    assert not path.exists()
    monkeypatch.setattr(gguf_front, "write_gguf", lambda *a, **k: write(*a, fails=False, **k))
    gguf_front.write_once(bench, CompressionConfig(), path, name="dense")
    assert path.read_text() == "whole"
    monkeypatch.setattr(gguf_front, "write_gguf", lambda *_, **__: pytest.fail("written again"))
    gguf_front.write_once(bench, CompressionConfig(), path, name="dense")


def test_the_search_text_chooses_whom_a_stock_mix_is_compared_with(monkeypatch, tmp_path, capsys):
    def record(name, kl, size, text="search"):
        found = {"kl": Measurement(value=kl), "weight_bytes": Measurement(value=size)}
        return SimpleNamespace(
            name=name, digest=name, config=None, measurements=found, sampler="paretune",
            fidelity=Fidelity(text=text, windows=2, window_tokens=8),
        )  # fmt: skip

    records = [record("large", 0.1, 90), record("chosen", 0.2, 50), record("lucky", 0.3, 40)]
    sizes = {"large": 90, "chosen": 50, "lucky": 40}
    monkeypatch.setattr(gguf_front, "RecordFile", lambda _: [*records, record("lucky", 0.05, 40, "report")])
    monkeypatch.setattr(gguf_front, "write_once", lambda *_, **__: None)
    monkeypatch.setattr(gguf_front, "tensor_bytes", lambda path: sizes[path.stem])
    stock = [gguf_front.File(tmp_path / "Q4", "Q4", "stock", size) for size in (45, 60)]
    searched = list(gguf_front.searched_files(None, tmp_path, stock, tmp_path))
    assert {file.name: file.search_kl for file in searched} == {"chosen": 0.2, "lucky": 0.3}
    # On the text that is reported it is the other way round.
    for file in searched:
        file.kl = np.array([0.5, 0.7]) if file.name == "chosen" else np.array([0.1, 0.1])
    for file in stock:
        file.kl = np.array([0.6, 0.9])
    for file in (*searched, *stock):
        file.seconds = [1.0]
    rows = list(gguf_front.rows("embedded", searched, stock))
    assert [row["kl_stderr"] for row in rows if row["kind"] == "stock"] == ["0.15", "0.05"]
    said = capsys.readouterr().out
    assert "Q4: 0.75, less lucky of 40: 0.65 +- 0.15\nQ4: 0.75, less chosen of 50: 0.15 +- 0.05" in said
    assert said.count("Q4 at 1 tokens/s: 0.75, less chosen: 0.15 +- 0.05, 50 bytes") == 2


def test_speeds_need_the_folder_of_the_files(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gguf_front", "--run", "run", "--speeds"])
    with pytest.raises(SystemExit):
        gguf_front.main()
    assert "--work" in capsys.readouterr().err


def test_exports_made_elsewhere_are_timed_under_the_names_of_their_folders(tmp_path):
    for model, config, size in (("b", "bf16", 9), ("b", "p001", 3), ("a", "bf16", 7)):
        folder = tmp_path / model / config
        folder.mkdir(parents=True)
        values = {"schema_version": SCHEMA_VERSION, "weight_bytes": size, "files": {}}
        write_json(folder / "paretune.json", sealed(values))
    found = [(one.model, one.config, one.weight_bytes) for one in serving.written(tmp_path)]
    assert found == [("a", "bf16", 7), ("b", "bf16", 9), ("b", "p001", 3)]
