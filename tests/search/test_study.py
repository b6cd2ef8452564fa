"""A whole search without a model: order, resuming, kill -9, limits, budgets, disk full, the front file."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paretune.reports.reading import read_front
from paretune.search import promotion
from paretune.search.pareto import ParetoFront
from paretune.search.promotion import as_candidate, promote, reference
from paretune.search.records import RecordFile
from paretune.search.result import build_front, write_front
from paretune.search.run_folder import OF, check_run_folder, lock_run_folder, tie_run_folder
from paretune.search.settings import SearchSettings
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import BrokenCandidateError, LimitError, RunError, SpaceError, StorageBusyError
from paretune.spaces.files import write_whole
from paretune.spaces.patterns import Restrictions
from paretune.spaces.size import dense_bytes
from tests.search.fake_study import make_study

ROOT = Path(__file__).resolve().parents[2]


def run(folder, **settings):
    study = make_study(folder, SearchSettings(**{"max_candidates": 20, **settings}))
    study.run()
    return study


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def front_of(study):
    """Members of the front of the search text, of everything that was read on as much as candidates are."""
    rows = {r.digest: r for r in study.records if r.fidelity == study.candidate and r.sampler != "marginal"}
    feasible = [as_candidate(study, r, rows) for r in rows.values() if study.scorer.feasible(r)]
    return ParetoFront(feasible, reference(study)).members


def essence(folder):
    """Everything of a record but its time."""
    times = ("seconds", "check")
    return [{key: value for key, value in line.items() if key not in times} for line in lines(folder)]


def test_dense_comes_first_then_uniform_rows_then_candidates(tmp_path):
    study = run(tmp_path)
    names = [line["name"] for line in lines(tmp_path)]
    assert names[:2] == ["dense", "dense"]  # on as many tokens as candidates, and on those of baselines
    assert names[2].startswith("uniform-")
    assert study.records.counts()["paretune"] >= 20
    assert [line["index"] for line in lines(tmp_path)] == list(range(len(names)))


@pytest.mark.parametrize("sampler", ["paretune", "additive", "nsga2", "random"])
def test_a_resumed_run_is_the_same_run_and_repeats_nothing(tmp_path, sampler):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run(whole, sampler=sampler)
    run(halved, sampler=sampler, max_candidates=7)
    before = len(lines(halved))
    resumed = run(halved, sampler=sampler)
    assert essence(whole) == essence(halved)
    assert resumed.scorer.quality.read == len(lines(halved)) - before


def test_a_torn_last_line_is_dropped(tmp_path):
    run(tmp_path, max_candidates=3)
    expected = essence(tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(tmp_path, max_candidates=3)
    assert essence(tmp_path) == expected


def _journal(folder):
    """Index of every trial of the journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    backend = JournalFileBackend(str(folder / "study.journal"))
    stored = optuna.load_study(study_name="paretune", storage=JournalStorage(backend))
    return [trial.user_attrs["index"] for trial in stored.trials]


@pytest.mark.parametrize("lost", [20, 5000, None])
def test_the_journal_catches_up_with_the_records(tmp_path, lost):
    """Torn by a full disk, behind by some trials, or gone: the records are the truth."""
    run(tmp_path, max_candidates=3)
    path = tmp_path / "study.journal"
    path.write_bytes(path.read_bytes()[:-lost] if lost else b"")
    run(tmp_path, max_candidates=5)
    run(tmp_path, max_candidates=6)
    expected = [line["index"] for line in lines(tmp_path) if line["sampler"] != "marginal"]
    assert sorted(_journal(tmp_path)) == expected


def test_no_candidates_leaves_what_comes_before_them(tmp_path):
    study = run(tmp_path, max_candidates=0)
    counts = study.records.counts()
    assert set(counts) == {"baseline", "probe", "marginal"}
    more = run(tmp_path, max_candidates=1)
    assert more.records.counts() == {**counts, "paretune": more.records.counts()["paretune"]}


def test_a_search_that_goes_on_after_its_front_was_judged_is_the_same(tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    bounds = {"max_candidates": None, "max_evaluations": 48.0}
    run(whole, **bounds)
    promote(run(halved, max_candidates=4))
    run(halved, **bounds)
    found = [{**line, "index": None} for line in essence(halved) if line["fidelity"]["text"] == "search"]
    assert found == [{**line, "index": None} for line in essence(whole)]


def test_an_interrupted_record_is_in_neither_file_nor_memory(tmp_path, monkeypatch):
    study = run(tmp_path, max_candidates=2)
    before, known = (tmp_path / "records.jsonl").read_bytes(), len(study.records)

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    dense = study.space.decode(study.space.origin())
    with pytest.raises(KeyboardInterrupt):
        study.scorer.score_config("dense", dense, "baseline", study.fidelity("report"))
    assert (tmp_path / "records.jsonl").read_bytes() == before
    assert len(study.records) == known


def test_kill_9_loses_at_most_the_candidate_under_way(tmp_path):
    program = (
        "import pathlib, sys\n"
        "from paretune.search.settings import SearchSettings\n"
        "from tests.search.fake_study import make_study\n"
        "make_study(pathlib.Path(sys.argv[1]), SearchSettings(max_candidates=20), seconds=0.02).run()"
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    process = subprocess.Popen([sys.executable, "-c", program, str(killed)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (
        not (killed / "records.jsonl").exists()
        or len((killed / "records.jsonl").read_bytes().splitlines()) < 15
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(RecordFile(killed))
    assert kept >= 14
    study = run(killed)
    run(whole)
    assert essence(killed) == essence(whole)
    assert study.scorer.quality.read == len(lines(killed)) - kept


def test_the_front_is_judged_on_the_report_text(tmp_path):
    study = run(tmp_path)
    front = build_front(study, promote(study))
    write_front(front, tmp_path)
    again = read_front(tmp_path)
    assert again == front
    assert any(m.name == "dense" for m in front.members)
    on_front = [m for m in front.members if m.on_front]
    assert len(on_front) >= 2
    assert all("kl_search" in m.measurements for m in front.members)
    reported = {r.digest for r in study.records if r.fidelity.text == "report"}
    assert {m.digest for m in front.members} == reported
    recommended = next(m for m in front.members if m.name == front.recommended)
    rows = [m for m in front.members if m.uniform and m.uniform.bits == 4]
    assert recommended.value("kl_search") <= min(m.value("kl_search") for m in rows)
    # The report text of the fake says a tenth more of everything: harder, and nobody was flattered.
    assert front.optimism.members == pytest.approx(np.log(1.1), abs=1e-3)
    assert front.optimism.factor == pytest.approx(1.0, abs=1e-3)
    assert all(m.log_optimism == pytest.approx(np.log(1.1), abs=1e-2) for m in on_front if m.kind != "dense")
    assert front.advantage.ratio > 1


def test_nothing_within_the_limits_leaves_an_empty_front(tmp_path):
    """Dense is too large and everything smaller too far from it: that is said, nothing breaks."""
    study = run(tmp_path, limits=("kl<=1e-9", "bytes<=250kB"), max_candidates=5)
    front = build_front(study, promote(study))
    assert not any(m.on_front for m in front.members)
    assert (front.recommended, front.hypervolume, front.advantage) == ("", 0.0, None)
    assert "nothing met the limits" in front.recommended_reason


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_recommended_configuration_is_shown_in_its_place(tmp_path, monkeypatch, count):
    """Wherever it lies, and also where thinning had left it out."""
    study = run(tmp_path, max_candidates=60)
    study.settings = study.settings.model_copy(update={"front_members": count})
    for member in front_of(study)[:: len(front_of(study)) // 6]:
        monkeypatch.setattr(promotion, "recommend", lambda *_, member=member: (member, ""))
        front = build_front(study, promote(study))
        shown = [m for m in front.members if m.on_front]
        assert len(shown) == count
        kls = [m.value("kl_search") for m in shown]
        sizes = [m.value("weight_bytes") for m in shown]
        assert kls == sorted(kls)
        assert sizes == sorted(sizes, reverse=True)
        assert member.digest in [m.digest for m in shown]


def test_the_report_text_chooses_nothing(tmp_path, monkeypatch):
    """Whatever it says: members, their order and the recommended configuration stay."""
    study = run(tmp_path)
    before = build_front(study, promote(study))
    dense, fidelity = study.space.decode(study.space.origin()).digest, study.fidelity("report")
    rng = np.random.default_rng(0)

    def other(name, config, sampler, wanted, score=study.scorer.score_config):
        record = score(name, config, sampler, wanted)
        if wanted != fidelity or record.digest == dense:
            return record
        kl = record.measurements["kl"]
        changed = kl.model_copy(update={"value": kl.value * float(np.exp(rng.normal()))})
        return record.model_copy(update={"measurements": {**record.measurements, "kl": changed}})

    monkeypatch.setattr(study.scorer, "score_config", other)
    after = build_front(study, promote(study))
    assert [m.digest for m in after.members] == [m.digest for m in before.members]
    assert [m.on_front for m in after.members] == [m.on_front for m in before.members]
    assert after.recommended == before.recommended
    assert after.optimism != before.optimism


def test_everything_that_is_compared_was_read_on_the_same_windows(tmp_path):
    study = run(tmp_path, max_candidates=30)
    promoted = promote(study)
    assert {row.search.fidelity for row in promoted.rows} == {study.candidate}
    assert {row.report.fidelity for row in promoted.rows} == {study.fidelity("report")}
    plain = {d for d, made in study.uniform.items() if made.plain}
    assert plain <= {row.search.digest for row in promoted.rows}
    lines_of = [line for line in lines(tmp_path) if line["sampler"] == "paretune"]
    assert {line["fidelity"]["windows"] for line in lines_of} == {study.candidate.windows}


@pytest.mark.parametrize("bits", [(3, 4, 8), (2, 4)])
def test_dense_is_the_checkpoint_where_16_bits_are_not_allowed(tmp_path, bits):
    """It is scored and shown, beside all real baselines; no member and no recommendation."""
    restrictions = Restrictions(bits=bits, group_size=None, methods=("rtn",), sparsity=(0.0,), blocks=(3,))
    study = make_study(tmp_path, SearchSettings(max_candidates=20), restrictions=restrictions)
    study.run()
    front = build_front(study, promote(study))
    (dense,) = [m for m in front.members if m.kind == "dense"]
    assert (dense.name, dense.config, dense.value("kl")) == ("dense", DENSE_CONFIG, 0.0)
    assert dense.value("weight_bytes") == dense_bytes(study.space.spec)
    assert not dense.on_front
    assert front.recommended != "dense"
    assert front.reference_point["weight_bytes"] == dense_bytes(study.space.spec)
    plain = {m.uniform.bits: m for m in front.members if m.uniform and m.uniform.plain}
    assert set(plain) == set(bits)
    assert all(m.value("weight_bytes") < dense.value("weight_bytes") for m in plain.values())
    assert sum(m.on_front for m in front.members) > 3


@pytest.mark.parametrize(
    ("limits", "best"),
    [
        (("weight_bytes<=300kB",), "kl"),
        (("kl<=0.3",), "weight_bytes"),
        (("kl<=0.3", "weight_bytes<=400kB"), "weight_bytes"),
    ],
)
def test_the_recommended_configuration_under_limits(tmp_path, limits, best):
    """On costs alone: the best quality. On a quality: the cheapest; never the dense model."""
    study = run(tmp_path, limits=limits, max_candidates=40)
    front = build_front(study, promote(study))
    column = {"kl": "kl_search"}.get(best, best)
    chosen = next(m for m in front.members if m.name == front.recommended)
    shown = [m for m in front.members if m.on_front and m.kind != "dense"]
    sure = [m for m in shown if m.value("kl_search") + 2 * (m.measurements["kl_search"].stderr or 0) <= 0.3]
    assert chosen.kind != "dense"
    assert chosen.value(column) == min(m.value(column) for m in (sure if best != "kl" else shown))


def test_limits_are_named_constraints_and_steer_what_is_paid_for(tmp_path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    limit = "weight_bytes<=200kB"
    study = run(tmp_path, limits=(limit,))
    candidates = [r for r in study.records if r.sampler == "paretune"]
    assert candidates
    assert all(r.violations[limit] <= 0 for r in candidates)
    stored = optuna.load_study(
        study_name="paretune", storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    )
    assert len(stored.trials) > len(candidates)
    assert all(limit in trial.constraints for trial in stored.trials)
    front = build_front(study, promote(study))
    assert all(m.measurements["weight_bytes"].value <= 200e3 for m in front.members if m.on_front)


def test_what_breaks_a_limit_on_size_is_read_briefly_at_most(tmp_path):
    plain = run(tmp_path / "plain", max_candidates=5)
    sizes = sorted(r.measurements["weight_bytes"].value for r in plain.records if r.digest in plain.uniform)
    most = sizes[len(sizes) // 2]
    study = run(tmp_path / "limited", limits=(f"bytes<={most:.0f}B",), max_candidates=5)
    build_front(study, promote(study))
    above = [r for r in study.records if r.measurements["weight_bytes"].value > most]
    assert {r.fidelity for r in above if r.digest in study.uniform} <= {study.baseline, study.marginal}
    further = {r.name for r in above if r.fidelity in (study.candidate, study.fidelity("report"))}
    assert further == {"dense"}
    assert any(r.fidelity == study.candidate for r in study.records if r.digest in study.uniform)


def test_limits_may_change_between_runs_of_a_folder(tmp_path):
    """What was read before is judged by the limits of now."""
    limit = "weight_bytes<=300kB"
    run(tmp_path, sampler="nsga2")
    study = run(tmp_path, sampler="nsga2", limits=(limit,), max_candidates=30)
    first = next(iter(study.records))
    assert first.name == "dense"
    assert first.violations == {}
    assert not study.scorer.feasible(first)
    assert study.observe(first).violations > (0.0,)
    members = front_of(study)
    assert members
    assert all(m.values[1] <= 300e3 for m in members)
    free = run(tmp_path, sampler="nsga2", max_candidates=30)
    assert any(r.violations for r in free.records)
    assert all(free.scorer.feasible(r) for r in free.records)


def test_what_was_a_marginal_first_can_be_on_the_front(tmp_path):
    """Of a space so small that it is searched to its end, with one group changed or more."""
    restrictions = Restrictions(
        bits=(4, 16), embedding_bits=(16,), group_size=None, methods=("rtn",), sparsity=(0.0,), kv_bits=(16,),
        blocks=(1,), kv_heads=(2,), ffn_channels=(256,),
    )  # fmt: skip
    fronts = {}
    for sampler in ("paretune", "additive", "random"):
        settings = SearchSettings(sampler=sampler)
        study = make_study(tmp_path / sampler, settings, restrictions=restrictions, blocks=1)
        study.run()
        assert study.ended == {"random": "exhausted"}.get(sampler, "converged")
        fronts[sampler] = {m.digest: m.values for m in front_of(study)}
    assert fronts["paretune"] == fronts["additive"] == fronts["random"]
    assert len(fronts["random"]) > 5


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"objectives": ("kl", "tpot")}, SpaceError),
        ({"objectives": ("task.recall", "bytes")}, SpaceError),
        ({"limits": ("ttft<=1s",)}, LimitError),
        ({"limits": ("task.recall>=0.5",)}, LimitError),
    ],
)
def test_what_has_no_value_is_refused_before_anything_is_read(tmp_path, settings, error):
    with pytest.raises(error, match="no value during this search"):
        make_study(tmp_path, SearchSettings(**settings))
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize("quality", ["perplexity", "top1_agreement"])
@pytest.mark.parametrize("sampler", ["paretune", "additive"])
def test_a_quality_is_searched_like_a_kl_whatever_dense_has_and_which_way_is_better(
    tmp_path, quality, sampler
):
    """The same loss in other words: the same candidates, of which the same are read further."""
    # A perplexity is of the text too, so no limit on it is the same on every rung.
    limit = {"perplexity": (), "top1_agreement": ("top1_agreement>=0",)}
    limit["kl"] = () if quality == "perplexity" else ("kl<=1",)
    found = []
    for name in ("kl", quality):
        study = run(
            tmp_path / name,
            objectives=(name, "bytes"),
            sampler=sampler,
            max_candidates=40,
            limits=limit[name],
        )
        found.append([(r.digest, r.fidelity, study.scorer.feasible(r)) for r in study.records])
        front = build_front(study, promote(study))
        found[-1].append([m.digest for m in front.members if m.on_front])
    assert found[0] == found[1]


def test_baselines_and_probes_on_a_front_of_any_cost_are_read_as_far_as_candidates(tmp_path):
    """With two costs none that is on the front of both may be left out for being beaten in the first."""
    study = run(tmp_path, objectives=("kl", "bytes", "memory"), sampler="random", max_candidates=5)
    longer = {r.digest for r in study.records if r.fidelity == study.candidate}
    rows = {r.digest: r for r in study.records if r.fidelity == study.baseline and r.sampler != "marginal"}
    members = ParetoFront([as_candidate(study, r, rows) for r in rows.values()], reference(study)).members
    assert len(members) > 10
    assert {m.digest for m in members} <= longer
    assert len(longer) < len(rows)


def test_an_impossible_limit_names_the_nearest(tmp_path):
    with pytest.raises(LimitError, match="the nearest meets"):
        run(tmp_path, limits=("weight_bytes<=1kB",))
    assert not (tmp_path / "records.jsonl").exists()


def test_budgets_end_the_search(tmp_path):
    study = run(tmp_path / "a", max_candidates=None, max_evaluations=1.0)
    assert study.records.evaluations <= 1.0 + 0.6
    assert study.records.evaluations >= 1.0
    run(tmp_path / "b", max_candidates=None, minutes=0.0)
    assert [line["name"] for line in lines(tmp_path / "b")] == ["dense"]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    study = run(tmp_path, max_candidates=2)
    before = (tmp_path / "records.jsonl").read_bytes()
    dense = study.space.decode(study.space.origin())

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        study.scorer.score_config("dense", dense, "baseline", study.fidelity("report"))
    with pytest.raises(RunError, match="No space left"):
        make_study(tmp_path / "other", SearchSettings())
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_one_process_a_folder(tmp_path):
    with lock_run_folder(tmp_path):
        program = (
            "import pathlib, sys\n"
            "from paretune.search.run_folder import lock_run_folder\n"
            "with lock_run_folder(pathlib.Path(sys.argv[1])): pass"
        )
        process = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert StorageBusyError.__name__ in process.stderr
    with lock_run_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(RunError, match="cannot be written"), lock_run_folder(place):
            pass
    (tmp_path / "run" / "run.lock").mkdir(parents=True)
    with pytest.raises(RunError, match="Is a directory"), lock_run_folder(tmp_path / "run"):
        pass
    with pytest.raises(RunError, match="cannot be written"):
        write_whole(tmp_path / "file" / "below", "text")


def test_a_folder_belongs_to_one_model(tmp_path):
    tie_run_folder(tmp_path, {"model": "a", "bank": "b"})
    tie_run_folder(tmp_path, {"bank": "b", "model": "a"})
    with pytest.raises(RunError, match="another model"):
        tie_run_folder(tmp_path, {"model": "c", "bank": "b"})


def test_a_folder_of_another_model_is_refused_by_its_name_and_without_hashes(tmp_path):
    kept = {OF: "embedded", "workload": "1" * 64, "engine": "vllm", "device": "h100"}
    tie_run_folder(tmp_path, kept)
    tie_run_folder(tmp_path, {**kept, OF: "./the-same-model"})
    with pytest.raises(RunError) as refused:
        check_run_folder(tmp_path, {OF: "./other", "workload": "2" * 64, "engine": "torch", "device": "h100"})
    assert str(refused.value.value) == f"run folder {tmp_path} (of embedded, now ./other)"
    assert refused.value.rule == "belongs to another engine (vllm, now torch) and another workload"


def test_a_folder_is_checked_by_what_is_known(tmp_path):
    check_run_folder(tmp_path, {"device": "h100"})
    assert not list(tmp_path.iterdir())
    tie_run_folder(tmp_path, {"model": "a", "device": "h100"})
    check_run_folder(tmp_path, {"device": "h100"})
    with pytest.raises(RunError, match="another device \\(h100, now l4\\)"):
        check_run_folder(tmp_path, {"device": "l4"})


@pytest.mark.parametrize("sampler", ["paretune", "nsga2", "tpe"])
def test_a_candidate_without_a_quality_is_marked_and_never_a_value(tmp_path, sampler):
    """Predictions that are not finite are no quality: the record says so, no sampler learns it, no front has it."""
    study = make_study(tmp_path, SearchSettings(max_candidates=8, sampler=sampler))
    whole = study.scorer.quality.evaluate

    def evaluate(config, fidelity):
        if any(choice.weight.num_bits == 3 for choice in config.layers.values()):
            raise BrokenCandidateError(
                "predictions", "are not finite at 3 of 128 tokens", "Use wider formats"
            )
        return whole(config, fidelity)

    study.scorer.quality.evaluate = evaluate
    study.run()
    broken = [record for record in study.records if record.broken]
    assert broken
    for record in broken:
        assert record.broken == "are not finite at 3 of 128 tokens"
        assert record.value("kl") is None
        assert record.value("weight_bytes") > 0
        assert not study.observe(record).feasible
    digests = [(record.digest, record.fidelity.name) for record in study.records]
    assert len(digests) == len(set(digests))
    front = build_front(study, promote(study))
    assert not {member.digest for member in front.members} & {record.digest for record in broken}
