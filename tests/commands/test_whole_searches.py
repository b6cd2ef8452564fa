"""Small searches from end to end: what they leave, how they are refused, and what a failure costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paretune.commands.main import main
from paretune.engines.environments import Environment
from paretune.search.records import RecordFile
from paretune.spaces.errors import EngineError, VerificationError
from paretune.spaces.files import sha256_of_file, write_json
from paretune.spaces.schema import sealed
from tests.commands.small_runs import ROOT, RULE, failing, paretune, small_arguments, small_run
from tests.engines.conftest import running


def test_a_small_run_from_model_to_export(model, text, run, capsys):
    widths = {
        (layer.rpartition(".")[2], choice.weight.num_bits)
        for record in RecordFile(run)
        for layer, choice in record.config.layers.items()
    }
    assert {bits for name, bits in widths if name == "up_proj"} >= {2, 4, 8}
    assert {bits for name, bits in widths if name == "down_proj"} == {4}
    names = {path.name for path in run.iterdir()}
    assert {
        "front.csv",
        "front.json",
        "records.jsonl",
        "run.json",
        "study.journal",
        "report.html",
        "export",
    } <= names
    document = json.loads((run / "run.json").read_text())
    assert document["status"] == "complete"
    assert document["export"]["kl_to_candidate"] <= document["export"]["tolerance"]
    assert len(document["latency_checks"]) >= 4  # as many as a slow machine finds in three seconds
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert records[0]["name"] == "dense"
    header = (run / "front.csv").read_text().splitlines()[0]
    assert header.startswith("digest,name,average_bits,weight_bytes,memory_bytes,kl,kl_stderr,kl_p99")

    again = small_run(model, text, run, *RULE)
    assert again.returncode == 0, again.stderr[-2000:]
    resumed = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert resumed[: len(records)] == records

    chosen = paretune("select", run, "--limit", "kl<=100", "--json")
    assert chosen.returncode == 0, chosen.stderr
    capsys.readouterr()
    for other, named in (
        (("--seed", 3), "belongs to another"),
        (("--workload", "batch=1,prompt=64,output=8"), "belongs to another workload"),
    ):
        assert main(small_arguments(model, text, run, *RULE, *other)) == 2
        assert named in capsys.readouterr().err


EXPORTED = {
    "name": "recommended", "folder": "export/pick", "engine": "transformers", "kl_to_candidate": 0.0, "tolerance": 1.0,
    "tokens": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("patches", "code", "export", "said"),
    [
        (
            {"paretune.pipeline.job.export_member": failing(VerificationError, "is another")},
            1, {"failed": "the file is another"}, "is another",
        ),
        ({"paretune.pipeline.job.export_member": failing(EngineError, "is too much")}, 2, None, "is too much"),
        (
            {
                "paretune.pipeline.job.export_member": lambda *given: dict(EXPORTED),
                "paretune.pipeline.job.write_gguf": lambda *given: (None, 0.1),
                "paretune.pipeline.job.check_gguf": failing(VerificationError, "is another GGUF"),
            },
            1, EXPORTED, "is another GGUF",
        ),
        (
            {
                "paretune.pipeline.job.export_member": lambda *given: dict(EXPORTED),
                "paretune.pipeline.job.write_gguf": lambda *given: (None, 0.1),
                "paretune.pipeline.job.check_gguf": failing(EngineError, "took too long"),
            },
            0, EXPORTED, "and not verified: the file took too long",
        ),
        (
            {
                "paretune.pipeline.job.export_member": lambda *given: dict(EXPORTED),
                "paretune.pipeline.job.write_gguf": failing(EngineError, "is no block type"),
            },
            0, EXPORTED, "not written as GGUF: the file is no block type",
        ),
    ],
    ids=["another", "refused", "another gguf", "gguf unverified", "gguf unwritten"],
)  # fmt: skip
def test_an_export_that_fails_costs_nothing_but_itself(
    model, text, run, tmp_path, monkeypatch, capsys, patches, code, export, said
):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html", "export"))
    for name, replacement in patches.items():
        monkeypatch.setattr(name, replacement)
    assert main(small_arguments(model, text, folder, *RULE, "--gguf")) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert (folder / "report.html").is_file()
    assert printed.out
    document = json.loads((folder / "run.json").read_text())
    assert document["status"] == "complete"
    assert (document["export"] is None) == (export is None)
    assert (document["export"] or {}).items() >= (export or {}).items()
    assert any(said in note for note in document["notes"]) == (code != 0)


@pytest.mark.parametrize(
    ("found", "version", "said"),
    [
        (None, "", "vllm is not installed where we look"),
        (Environment(Path("/p"), "vllm", "0.26.0", "a test"), "0.26.0", "vllm 0.26.0 finds no GPU of NVIDIA"),
    ],
    ids=["no vllm", "no gpu"],
)
def test_a_search_for_an_engine_that_is_not_here_ends_with_an_export(
    model, text, tmp_path, monkeypatch, capsys, found, version, said
):
    for place in ("engine", "vllm_engine"):
        monkeypatch.setattr(f"paretune.engines.{place}.find_environment", lambda _: found)
    monkeypatch.setattr("paretune.engines.vllm_engine._gpu_name", lambda: "")
    out = tmp_path / "run"
    given = [*small_arguments(model, text, out, "--engine", "vllm", "--device", "h100"), "--bits", "4,8,16"]
    assert main([*given, "--group-size", "32"]) == 0, capsys.readouterr().err
    document = json.loads((out / "run.json").read_text())
    assert (document["status"], document["engine_version"]) == ("complete", version)
    assert "kl_to_candidate" not in document["export"]
    assert document["export"]["launch"].startswith("VLLM_NO_USAGE_STATS=1 vllm serve")
    assert said in document["export"]["not_loaded"]
    assert f"exported and not verified here: {said}" in " ".join(capsys.readouterr().out.split())
    assert (out / "report.html").is_file()
    assert len(list((out / "export").iterdir())) == 1
    again = next(
        row["name"] for row in json.loads((out / "front.json").read_text())["members"] if row["on_front"]
    )
    assert main(["export", str(out), "--name", again, "--out", str(tmp_path / "by-hand")]) == 0
    told = capsys.readouterr().out
    assert f"to {tmp_path / 'by-hand'}; not verified here: {said}" in told
    assert (tmp_path / "by-hand" / "paretune.json").is_file()


def test_what_fails_after_the_search_costs_nothing_but_itself(
    model, text, run, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html", "front.csv"))
    monkeypatch.setattr("paretune.pipeline.job.measure_latency", failing(EngineError, "took too long"))
    assert main(small_arguments(model, text, folder, *RULE)) == 2
    assert "took too long" in capsys.readouterr().err
    document = json.loads((folder / "run.json").read_text())
    assert (document["status"], document["export"]["name"]) == ("complete", document["export"]["name"])
    assert document["export"]["kl_to_candidate"] <= document["export"]["tolerance"]
    assert any("latency was not measured" in note for note in document["notes"])
    assert (folder / "report.html").is_file()
    assert (folder / "front.csv").is_file()


def test_an_export_that_nobody_verified_does_not_stay(model, text, run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("paretune.pipeline.exporting.verify_export", interrupted)
    assert main(small_arguments(model, text, folder, *RULE)) == 130
    assert not list((folder / "export").iterdir())
    printed = capsys.readouterr()
    assert "interrupted" in printed.err
    assert "front:" in printed.out


def test_a_size_that_nothing_reaches_is_refused_before_the_bank(model, text, tmp_path, capsys):
    assert main(small_arguments(model, text, tmp_path / "run", "--limit", "memory<=6")) == 3
    assert "the nearest meets memory_bytes<=" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("bank/entries*"))


def test_a_mistyped_task_is_refused_before_the_search(model, text, tmp_path, capsys):
    assert main(small_arguments(model, text, tmp_path / "run", "--task", "hellaswg")) == 2
    assert "hellaswg" in capsys.readouterr().err
    assert not (tmp_path / "run" / "records.jsonl").exists()


TASK = """
task: tiny_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_a_search_on_a_task_chooses_by_some_items_and_reports_others(model, text, tmp_path, capsys):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    items = [{"prompt": f"{i} is", "choices": [f" {i}", f" {i + 1}"], "gold": 0} for i in range(32)]
    (tasks / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tasks / "sums.yaml").write_text(TASK.format(data=tasks / "items.jsonl"))
    words = small_arguments(
        model, text, tmp_path / "run", "--bits", "4,16", "--no-export", "--objective", "task.tiny_sums",
        "--objective", "bytes", "--limit", "task.tiny_sums>=0.0",
    )  # fmt: skip
    assert main(words) == 2
    assert "task.tiny_sums" in capsys.readouterr().err  # nobody named a task
    for _ in range(2):  # the second goes on from the records of the first
        assert main([*words, "--tasks", str(tasks)]) == 0, capsys.readouterr().err
        by_text = {"search": set(), "report": set()}
        for record in RecordFile(tmp_path / "run"):
            by_text[record.fidelity.text] |= set(record.measurements["task.tiny_sums"].sample.windows)
        assert all(len(found) == 16 for found in by_text.values())
        assert not by_text["search"] & by_text["report"]
    front = json.loads((tmp_path / "run" / "front.json").read_text())
    assert front["objectives"][0] == "task.tiny_sums"
    assert {"task.tiny_sums", "task.tiny_sums_search"} <= front["members"][0]["measurements"].keys()
    assert "task.tiny_sums,task.tiny_sums_stderr" in (tmp_path / "run" / "front.csv").read_text()
    assert "tiny_sums_search" not in capsys.readouterr().out


def test_limits_that_nothing_meets_leave_no_pick_and_no_export(model, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "paretune.search.promotion.recommend", lambda *_: (None, "nothing met the limits on the search text")
    )
    folder = tmp_path / "run"
    assert main(small_arguments(model, text, folder)) == 3
    printed = capsys.readouterr()
    assert "there is no recommended configuration" in printed.err
    assert "No candidate meets the limits" in printed.out
    document = json.loads((folder / "run.json").read_text())
    assert (document["status"], document["export"]) == ("complete", None)
    assert (folder / "report.html").is_file()
    assert main(["export", str(folder)]) == 3
    assert "there is no recommended configuration" in capsys.readouterr().err


def test_a_run_goes_on_from_its_own_settings(model, text, run, capsys):
    records = (run / "records.jsonl").read_text().splitlines()
    before = json.loads((run / "run.json").read_text())["spent"]
    assert main(["search", "--run-file", str(run / "run.json"), "--out", str(run), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["status"], printed["folder"]) == ("complete", str(run))
    assert {row["name"] for row in printed["rows"]} >= {"dense", printed["recommended"]}
    # Seconds of earlier calls count.
    assert all(
        printed["spent"][stage] > seconds for stage, seconds in before.items() if stage in ("start", "bank")
    )
    assert printed["spent"]["search"] >= before["search"]
    assert (run / "records.jsonl").read_text().splitlines()[: len(records)] == records


def test_a_folder_of_other_settings_is_refused_before_anything_is_loaded(
    model, text, run, monkeypatch, capsys
):
    def load(*given):
        raise AssertionError("loaded")

    monkeypatch.setattr("paretune.pipeline.workbench.load_for_scoring", load)
    for other, named in (
        (("--seed", 3), "search settings"),
        (("--workload", "batch=1,prompt=64,output=8"), "workload"),
        (("--engine", "vllm", "--device", "h100"), "device"),
    ):
        assert main(small_arguments(model, text, run, *RULE, *other)) == 2
        assert f"belongs to another {named}" in capsys.readouterr().err


def test_a_damaged_export_is_set_aside_and_written_again(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    name = json.loads((folder / "front.json").read_text())["recommended"]
    shard = folder / "export" / name / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert main(["export", str(folder)]) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert "is written again" in told
    assert "preparing the bank" in told
    assert (folder / "export" / f"{name}.damaged").is_dir()


def test_a_bundle_is_all_that_a_server_needs(run, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    assert main(["export", str(run), "--name", "uniform-4", "--bundle", "--out", str(bundle), "--quiet"]) == 0
    assert f"to copy to the server: {bundle}" in capsys.readouterr().out
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "model", "serve.sh"]
    for file in bundle.rglob("*"):
        if file.is_file():
            assert all(place.encode() not in file.read_bytes() for place in (str(run), str(tmp_path))), file
    server = shutil.move(bundle, tmp_path / "server")
    assert main(["verify", str(server), "--quiet"]) == 0
    assert "KL to the searched candidate" in capsys.readouterr().out
    # Whole by its hashes, and another model than was searched.
    weights, manifest = server / "model" / "model.safetensors", server / "model" / "paretune.json"
    content = bytearray(weights.read_bytes())
    content[-4096:] = bytes(reversed(content[-4096:]))
    weights.write_bytes(content)
    assert main(["verify", str(server), "--quiet"]) == 1
    assert "is not what paretune.json says" in capsys.readouterr().err
    said = json.loads(manifest.read_text())
    del said["checksum"]
    said["files"]["model.safetensors"] = sha256_of_file(weights)
    write_json(manifest, sealed(said))
    assert main(["verify", str(server), "--quiet"]) == 1
    assert "differs from the searched candidate" in capsys.readouterr().err


def test_a_refused_search_leaves_no_folder(model, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too little")
    assert main(small_arguments(model, short, tmp_path / "run")) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.engine
def test_a_member_is_exported_refined_and_checked(model, text, run, tmp_path, capsys):
    exported = paretune("export", run, "--name", "uniform-4", "--out", tmp_path / "uniform")
    assert exported.returncode == 0, exported.stderr
    assert "KL to the searched candidate" in exported.stdout
    refined = paretune("export", run, "--name", "uniform-4", "--refine", "qat", "--quiet")
    assert refined.returncode == 0, refined.stderr
    assert "refined by qat: KL" in refined.stdout
    manifest = json.loads((run / "export" / "uniform-4-refined-qat" / "paretune.json").read_text())
    plain = json.loads((tmp_path / "uniform" / "paretune.json").read_text())
    assert manifest["digest"] == plain["digest"]
    assert manifest["run"]["refined"] == "qat"
    assert manifest["run"]["hashes"].pop("refined")
    assert manifest["run"]["hashes"] == plain["run"]["hashes"]
    assert manifest["figures"]["kl"] < plain["figures"]["kl"]
    capsys.readouterr()
    assert main(["verify", str(run / "export" / "uniform-4-refined-qat"), "--quiet"]) == 0
    assert "KL to the searched candidate" in capsys.readouterr().out
    assert main(["export", str(run), "--name", "uniform-4", "--refine", "gptq"]) == 2
    assert "nothing to refine" in capsys.readouterr().err
    checked = paretune(
        "check",
        tmp_path / "uniform",
        "--base",
        model,
        "--text",
        text,
        "--windows",
        8,
        "--window-tokens",
        32,
        "--tasks",
        ROOT / "demo" / "tasks",
        "--task",
        "demo_recall",
        "--task-limit",
        2,
        "--json",
    )
    assert checked.returncode == 0, checked.stderr
    assert set(json.loads(checked.stdout)["tasks"]) == {"demo_recall"}
    assert "it/s" not in checked.stderr
    strict = paretune(
        "check", tmp_path / "uniform", "--base", model, "--text", text, "--windows", 8, "--window-tokens", 32,
        "--limit", "kl<=1e-9",
    )  # fmt: skip
    assert strict.returncode == 1


@pytest.mark.engine
def test_a_search_for_speed_times_formats_in_the_engine_and_says_how_right_it_was(model, text, tmp_path):
    running("llama.cpp")
    out = tmp_path / "run"
    words = (
        "search", model, "--text", text, "--window-tokens", 32, "--engine", "llama.cpp", "--bits", "16",
        "--embedding-bits", "16", "--format", "q4_0/ggml", "--format", "q8_0/ggml", "--minutes", 0.05, "--no-export",
    )  # fmt: skip
    alone = ("--workload", "batch=1,prompt=8,output=8")
    found = paretune(*words, "--out", out, "--objective", "kl", "--objective", "tpot", *alone)
    assert found.returncode == 0, found.stderr[-2000:]
    timed = json.loads((out / "predictor.json").read_text())["runs"]
    assert len({json.dumps(row["config"], sort_keys=True) for row in timed}) == len(timed) > 3
    run = json.loads((out / "run.json").read_text())
    assert run["latency_checks"]
    assert all(check["predicted_s"] > 0 < check["measured_s"] for check in run["latency_checks"])
    header, *rows = (out / "front.csv").read_text().splitlines()
    assert "tpot_s_predicted" in header
    assert rows
    batch = ("--limit", "tpot<=1s", "--workload", "batch=2,prompt=8,output=8")
    refused = paretune(*words, "--out", tmp_path / "batch", *batch)
    assert refused.returncode == 2
    assert "decodes one sequence" in refused.stderr
