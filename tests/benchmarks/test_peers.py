"""What other libraries hand back is checked, put into our model, and taken out again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.compressors import sources
from benchmarks.peer_programs.job import Job, Model, answer
from benchmarks.peer_table import PEERS, PRUNING_PEERS, VARIANTS, Peer
from benchmarks.peers import Bench, PeerError, paired_error, peer_rows, run_peer, swapped, window_kl
from benchmarks.pruning_peers import layer_error

PEER = Peer("rtn", "library", "torch", "program", 4)
FAKE = """#!{python}
import sys, json, pathlib
from safetensors.torch import load_file, save_file
folder = pathlib.Path(sys.argv[-1])
job = json.loads((folder / "job.json").read_text())
dense = load_file(job["model"] + "/model.safetensors")
weights = {{x + ".weight": dense[x + ".weight"].float() * float('{factor}') for x in job["linears"][{skipped}:]}}
save_file(weights, folder / "weights.safetensors")
(folder / "result.json").write_text(json.dumps({{"seconds": 1.5, "peak_bytes": 7, "version": "0"}}))
"""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of(sources(None)[0], windows=3, calibration_windows=2)


def interpreter(folder: Path, factor: float, skipped: int = 0) -> Path:
    path = folder / "interpreter"
    path.write_text(FAKE.format(python=sys.executable, factor=factor, skipped=skipped), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_every_linear_inside_the_blocks_is_a_layer(bench: Bench) -> None:
    assert len(bench.linears) == 42
    assert not any("lm_head" in name for name in bench.linears)


def test_the_dense_weights_handed_back_are_no_divergence(bench: Bench, tmp_path: Path) -> None:
    answered = run_peer(bench, PEER, interpreter(tmp_path, 1.0))
    assert window_kl(bench, answered).max() < 1e-6


def test_a_row_is_paired_with_ours(tmp_path: Path) -> None:
    ours = {("rtn", 4, True): np.array([0.0, 0.1, 0.3])}
    rows = peer_rows(
        sources(None)[0], ours, interpreter(tmp_path, 0.5), windows=3, calibration_windows=2, peers=[PEER]
    )
    (row,) = rows
    assert row["implementation"] == "library"
    assert float(str(row["kl"])) > 1e-3
    assert float(str(row["kl_stderr"])) == pytest.approx(0.0882, rel=0.2)
    assert row["peak_bytes"] == 7


def test_the_model_is_as_it_was_even_after_an_error(bench: Bench) -> None:
    name = f"{bench.linears[0]}.weight"
    before = bench.model.get_parameter(name).detach().clone()

    def fail() -> None:
        with swapped(bench.model, {name: torch.zeros_like(before)}):
            assert bench.model.get_parameter(name).abs().max() == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(bench.model.get_parameter(name), before)


def test_a_linear_left_out_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="is as it was"):
        run_peer(bench, PEER, interpreter(tmp_path, 1.0, skipped=1))


def test_a_weight_that_is_no_number_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="finite"):
        run_peer(bench, PEER, interpreter(tmp_path, float("inf")).resolve())


def test_a_program_that_fails_is_told_with_its_words(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "failing"
    path.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n", encoding="utf-8")
    path.chmod(0o755)
    with pytest.raises(PeerError, match="status 3: no such library"):
        run_peer(bench, PEER, path)


def test_an_answer_holds_what_changed_and_nothing_else(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Job(str(bench.source.folder), "torch", "rtn", bench.linears, 4, 128, True).write(
        tmp_path, bench.calibration.ids, bench.teacher.windows.ids
    )

    def halve(model: Model) -> None:
        assert torch.equal(model.calibration, bench.calibration.ids)
        model.linear(bench.linears[1]).weight.data.mul_(0.5)

    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path)])
    answer(halve)
    assert set(load_file(tmp_path / "weights.safetensors")) == {f"{bench.linears[1]}.weight"}
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["seconds"] >= 0


def test_paired_errors() -> None:
    theirs, ours = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 1.0])
    assert paired_error(theirs, ours) == pytest.approx((1 / 3) ** 0.5)
    assert paired_error(theirs, None) is None
    with pytest.raises(PeerError, match="Read the same windows"):
        paired_error(theirs, ours[:2])


def test_layer_error_is_a_share_of_the_outputs() -> None:
    weight, inputs = torch.tensor([[3.0, 4.0]]), torch.eye(2)
    assert layer_error(weight, torch.tensor([[0.0, 4.0]]), inputs) == pytest.approx(9 / 25)
    assert layer_error(weight, weight, inputs) == 0


def test_rows_are_not_measured_twice() -> None:
    keys = [(p.method, p.implementation, p.num_bits, p.symmetric) for p in PEERS]
    assert len(keys) == len(set(keys))
    programs = Path(sys.modules["benchmarks.peer_programs"].__file__ or "").parent
    assert all((programs / f"{p.program}.py").exists() for p in (*PEERS, *VARIANTS, *PRUNING_PEERS))
