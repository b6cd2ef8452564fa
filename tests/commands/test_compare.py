"""``paretune compare``: an export of the run itself, siblings of other sizes and tokenizers, and refusals."""

from __future__ import annotations

import json
import shutil

import pytest

from paretune.commands.compare import compare
from paretune.commands.main import main
from paretune.compressors.loading import load_tokenizer
from paretune.pipeline.checkpoints import name_checkpoints, own_tokenizer, read_facts
from paretune.reports.compared import FILE
from paretune.reports.reading import read_front, read_run_folder
from paretune.reports.report import write_report
from paretune.spaces.errors import ModelError, RunError, VerificationError
from paretune.spaces.schema import sealed, unsealed
from tests.commands.test_cli import ROOT, paretune
from tests.models import build_tiny


def ending(folder):
    """A tokenizer with a token that ends a text, which tasks need."""
    path = folder / "tokenizer_config.json"
    known = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": next(iter(known))}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("compare")
    model = ending(build_tiny("llama", place / "model", dtype="bfloat16", num_hidden_layers=2))
    documents = ["".join(f"Line {i} of document {n} is {i * n}.\n" for i in range(30)) for n in range(12)]
    (place / "text.txt").write_text("<|endoftext|>".join(documents), encoding="utf-8")
    (place / "run.yaml").write_text("engine: transformers\nspace: {kv_bits: [16]}\n")
    found = paretune(
        "search", model, "--run-file", place / "run.yaml", "--text", place / "text.txt", "--out", place / "run",
        "--window-tokens", 32, "--bits", "4,16", "--embedding-bits", "16", "--group-size", 32, "--minutes", 0.02,
        "--workload", "batch=1,prompt=16,output=8", "--tasks", ROOT / "demo" / "tasks",
        "--task", "demo_recall", "--task-limit", 3,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    return place / "run"


def export_of(run):
    name = next(path for path in (run / "export").iterdir()).name
    return run / "export" / name, next(m for m in read_front(run).members if m.name == name)


def test_an_export_of_the_run_has_the_kl_of_its_member(run, capsys):
    export, member = export_of(run)
    assert main(["compare", str(run), "--checkpoint", str(export), "--label", "mine", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "mine: compared, not searched" in printed.out
    (row,) = read_run_folder(run).compared.models
    assert row.same_tokenizer
    assert row.notes == ()
    assert row.value("kl") == pytest.approx(member.value("kl"), rel=1e-3, abs=1e-7)
    assert row.value("perplexity") == pytest.approx(member.value("perplexity"), rel=1e-4)
    assert row.value("weight_bytes") == member.value("weight_bytes")
    assert row.value("memory_bytes") == member.value("memory_bytes")
    assert row.value("task.demo_recall") == member.value("task.demo_recall")
    assert row.measurements["task.demo_recall"].n == 3
    assert len(row.measurements["kl"].per_window) == len(member.measurements["kl"].per_window)
    (run / "report.html").unlink()
    write_report(run)
    assert "Beside other models" in (run / "report.html").read_text()


def test_siblings_are_judged_on_the_same_text(run, tmp_path, capsys):
    padded = ending(build_tiny("qwen3", tmp_path / "padded", num_hidden_layers=5, vocab_size=264))
    other = ending(build_tiny("llama", tmp_path / "other", hidden_size=64))
    swap_tokens(other)
    compare(run, [str(padded), str(other)], None, quiet=True)
    assert "! another tokenizer: no KL" in capsys.readouterr().out
    rows = {row.label: row for row in read_run_folder(run).compared.models}
    assert rows["padded"].value("kl") > 0
    assert rows["padded"].same_tokenizer
    assert any(text.startswith("another size") for text in rows["padded"].notes)
    assert not rows["other"].same_tokenizer
    assert set(rows["other"].measurements) == {
        "bits_per_byte", "weight_bytes", "memory_bytes", "task.demo_recall"
    }  # fmt: skip
    # Nothing of it was trained: about eight bits a byte, whichever way its tokens are numbered.
    assert 7 < rows["other"].value("bits_per_byte") < 14
    assert rows["padded"].measurements["bits_per_byte"].n == rows["other"].measurements["bits_per_byte"].n
    compare(run, [str(padded)], None, quiet=True)
    assert {row.label for row in read_run_folder(run).compared.models} >= set(rows)


def swap_tokens(folder):
    """Another vocabulary over the same bytes: two tokens trade places."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(values))


def test_what_is_no_checkpoint_is_refused(run, tmp_path):
    before = (run / FILE).read_text() if (run / FILE).exists() else None
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "a.B"}}')
    for name, expected in (
        ("empty", "no config.json"),
        ("notes.txt", "no GGUF file"),
        ("nowhere", "neither a folder"),
        ("pickled", "only pytorch_model.bin"),
        ("own", "code of its own, which is never run"),
    ):
        with pytest.raises(ModelError, match=expected):
            compare(run, [str(tmp_path / name)], None, quiet=True)
    assert ((run / FILE).read_text() if (run / FILE).exists() else None) == before
    with pytest.raises(RunError, match="does not exist"):
        compare(tmp_path / "nowhere", [str(tmp_path)], None, quiet=True)


def test_labels_are_one_each(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    source = str(tmp_path / "one")
    assert [one.label for one in name_checkpoints([source], [])] == ["one"]
    for sources, labels in (([source], ["a", "b"]), ([source, source], []), ([source, source], ["a", "a"])):
        with pytest.raises(RunError, match="label"):
            name_checkpoints(sources, labels)


def test_a_damaged_export_is_caught_before_it_is_loaded(run, tmp_path):
    export, _ = export_of(run)
    damaged = shutil.copytree(export, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(VerificationError, match="not what"):
        compare(run, [str(damaged)], None, quiet=True)


def test_a_run_whose_model_changed_is_refused(run, tmp_path):
    export, _ = export_of(run)
    moved = tmp_path / "run"
    moved.mkdir()
    for name in ("front.json", "run.json"):
        shutil.copy(run / name, moved / name)
    values = unsealed(json.loads((moved / "run.json").read_text()))
    values["hashes"]["model"] = "0" * 64
    (moved / "run.json").write_text(json.dumps(sealed(values)))
    with pytest.raises(RunError, match="another than when it was searched"):
        compare(moved, [str(export)], None, quiet=True)


def test_a_gguf_file_is_read_by_llama_cpp(tmp_path):
    gguf = pytest.importorskip("gguf", reason="GGUF files are read by it")
    pytest.importorskip("xllamacpp", reason="llama.cpp runs GGUF files")
    import numpy as np

    tokenizer = load_tokenizer(build_tiny("llama", tmp_path / "model"))
    words = tokenizer.convert_ids_to_tokens(list(range(256)))
    for name, tokens in (("same", [*words, "[PAD256]"]), ("other", words[::-1]), ("none", [])):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        if tokens:
            writer.add_token_list(tokens)
        writer.add_tensor("one", np.zeros((4, 8), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    (same,) = name_checkpoints([str(tmp_path / "same.gguf")], [])
    facts = read_facts(same)
    assert (same.label, facts.rows, facts.weight_bytes, facts.numbers) == ("same", 257, 128, "GGUF (F32)")
    assert own_tokenizer(same, facts, tokenizer, []) is None
    for name in ("other", "none"):
        (one,) = name_checkpoints([str(tmp_path / f"{name}.gguf")], [])
        with pytest.raises(ModelError, match="other tokens than"):
            own_tokenizer(one, read_facts(one), tokenizer, [])
    whole = (tmp_path / "same.gguf").read_bytes()
    (tmp_path / "same.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        read_facts(same)
