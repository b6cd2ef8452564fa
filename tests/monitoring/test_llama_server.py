"""The whole of it with llama.cpp's real server: a ladder of the embedded model, a damaged file, the next rung."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest

from tests.monitoring.ladders import FILE, ROOT, embedded_bench, flip_bytes, server, uniform_member

pytest.importorskip("httpx", reason="the monitor needs the extra 'monitor'")

from paretune.commands.export import export
from paretune.commands.main import main
from paretune.commands.monitor import monitor
from paretune.engines.canary import CANARIES, TOP, read_canaries
from paretune.engines.manifest import MANIFEST, check_files
from paretune.monitoring.endpoint import Endpoint
from paretune.monitoring.files import FileGuard
from paretune.monitoring.ladder import read_ladder
from paretune.monitoring.switching import Switcher
from paretune.monitoring.watch import Watch
from paretune.pipeline.ladder import choose_rungs, export_rungs
from paretune.spaces.errors import EngineError, RunError, VerificationError
from paretune.spaces.files import sha256_of_file, write_json
from paretune.spaces.schema import sealed
from tests.engines.conftest import running

pytestmark = pytest.mark.engine

CHECKS = 4


@pytest.fixture(scope="module", autouse=True)
def engine():
    return running("llama.cpp")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return embedded_bench(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def members(bench):
    return tuple(uniform_member(bench.spec, form, kl) for form, kl in (("q4_k", 0.001), ("q8_0", 0.0001)))


@pytest.fixture(scope="module")
def exported(bench, members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "ladder"
    return folder, export_rungs(bench, choose_rungs(members, members[0], 2), folder, 12)


@pytest.fixture
def ladder(exported, tmp_path):
    return shutil.copytree(exported[0], tmp_path / "ladder", symlinks=True)


@contextmanager
def watching(folder, file, *, files=None, **asked):
    """A watch of llama.cpp's server over a file of a ladder."""
    found = read_ladder(folder)
    with server(folder / file) as (url, pid), closing(Endpoint(url, **asked)) as endpoint:
        yield Watch(found, endpoint, Switcher(found), pid=pid, files=files)


def test_llama_cpp_says_of_a_rung_alone_whether_it_is_the_candidate(ladder, capsys):
    rung = ladder / "0-q4_k"
    assert main(["verify", str(rung), "--quiet"]) == 0
    assert "in llama.cpp" in capsys.readouterr().out
    # Another model under the same name, whole by its hashes.
    flip_bytes(rung / FILE, "blk.2.ffn_down.weight", count=4000)
    manifest = json.loads((rung / MANIFEST).read_text())
    del manifest["checksum"]
    manifest["files"][FILE] = sha256_of_file(rung / FILE)
    write_json(rung / MANIFEST, sealed(manifest))
    assert main(["verify", str(rung), "--quiet"]) == 1
    assert "differs from the searched candidate" in capsys.readouterr().err


def test_rungs_are_verified_exports_with_canaries(exported, members):
    folder, done = exported
    assert sorted(path.name for path in folder.iterdir()) == ["0-q4_k", "1-q8_0", "current", "ladder.json"]
    assert (folder / "current").readlink().name == "0-q4_k"
    ladder = read_ladder(folder)
    for index, (rung, member, said) in enumerate(zip(ladder.rungs, members, done, strict=True)):
        check_files(ladder.place(index))
        assert said["kl_to_candidate"] <= said["tolerance"]
        assert said["folder"] == str(ladder.place(index))
        assert (rung.name, rung.kl) == (member.name, member.value("kl"))
        assert str(ladder.place(index) / FILE) in rung.launch
        found = read_canaries(ladder.place(index))
        assert found.engine == "llama.cpp"
        assert len(found.canaries) == 12
        for canary in found.canaries:
            assert 8 <= len(canary.ids) <= 48
            assert len(canary.top_ids) == TOP
            assert list(canary.log_probabilities) == sorted(canary.log_probabilities, reverse=True)
        assert len({len(canary.ids) for canary in found.canaries}) == 12
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(("protocol", "prompts"), [("openai", "ids"), ("llama.cpp", "text")])
def test_a_healthy_server_passes_every_check(ladder, protocol, prompts):
    asked = {"protocol": protocol, "prompts": prompts}
    with watching(ladder, f"current/{FILE}", files=FileGuard(), **asked) as watched:
        outcomes = [watched.check() for _ in range(CHECKS)]
    assert [outcome.note for outcome in outcomes] == [""] * CHECKS
    assert max(outcome.reading.drift_nats for outcome in outcomes) < 1e-4
    assert outcomes[0].reading.memory_bytes > (ladder / "current" / FILE).stat().st_size
    assert (ladder / "current").readlink().name == "0-q4_k"


@pytest.mark.parametrize("tensor", ["blk.2.ffn_down.weight", "blk.0.attn_q.weight", "token_embd.weight"])
def test_a_damaged_tensor_is_caught_within_three_checks_and_the_next_rung_is_on(ladder, tensor):
    flip_bytes(ladder / "0-q4_k" / FILE, tensor, count=256)
    # Files are not read: what is caught here is caught by what the server answers.
    with watching(ladder, f"current/{FILE}") as watched:
        outcomes = [watched.check() for _ in range(3)]
    assert all(outcome.broken for outcome in outcomes)
    assert [outcome.switched_to for outcome in outcomes] == [None, None, 1]
    assert (ladder / "current").readlink().name == "1-q8_0"
    with watching(ladder, f"current/{FILE}") as again:
        assert again.rung == 1
        assert not again.check().broken


def test_another_rung_than_the_one_that_is_on_is_drift(ladder):
    (ladder / "0-q4_k" / FILE).write_bytes((ladder / "1-q8_0" / FILE).read_bytes())
    with watching(ladder, f"0-q4_k/{FILE}", files=FileGuard()) as watched:
        found = watched.check().reading
    assert found.altered_files == 1
    assert found.drift_nats > 1e-4


def test_one_check_from_the_command_line(ladder, capsys):
    with server(ladder / "current" / FILE) as (url, pid):
        assert monitor(ladder, url, once=True, pid=str(pid)) == 0
        assert "12 canaries" in capsys.readouterr().out
        flip_bytes(ladder / "0-q4_k" / FILE, "output_norm.weight", count=1)
        assert monitor(ladder / "0-q4_k", url, once=True) == 1
        assert "altered_files above 0" in capsys.readouterr().out
    assert (ladder / "current").readlink().name == "0-q4_k"


def test_a_server_of_no_file_or_a_broken_one_says_so(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    for file, expected in ((tmp_path / "none.gguf", "no file"), (tmp_path / "bad.gguf", "cannot serve")):
        command = [sys.executable, str(ROOT / "engines" / "llama" / "server.py"), str(file)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert found.returncode == 1
        assert expected in found.stderr
        assert found.stdout == ""


# -- writing them ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(bench, members, tmp_path, monkeypatch):
    """A run folder whose workbench is open already."""
    folder = tmp_path / "run"
    folder.mkdir()
    found = SimpleNamespace(
        front=SimpleNamespace(members=members, recommended="q4_k"), run=SimpleNamespace(settings={})
    )
    monkeypatch.setattr("paretune.pipeline.run.read_run_folder", lambda path: found)
    monkeypatch.setattr("paretune.pipeline.run.validate_run", lambda settings, where: settings)
    for place in ("exporting", "ladder"):
        monkeypatch.setattr(f"paretune.pipeline.{place}.open_workbench", lambda *given: bench)
    return folder


def test_the_command_exports_a_ladder_and_never_over_another(run, capsys):
    assert export(run, ladder=2, canaries=3, quiet=True) == 0
    assert "rung 1: exported q8_0" in capsys.readouterr().out
    assert len(read_canaries(run / "ladder" / "current").canaries) == 3
    with pytest.raises(EngineError, match="not empty"):
        export(run, ladder=2, quiet=True)
    with pytest.raises(RunError, match="the front has 1"):
        export(run, ladder=3, out=run / "more", quiet=True)
    with pytest.raises(RunError, match="for one member"):
        export(run, ladder=2, refine="gptq", quiet=True)
    assert not (run / "more").exists()


def test_an_export_that_fails_leaves_no_ladder(run, bench, monkeypatch):
    def fail(*given, **more):
        raise VerificationError("export", "differs", "")

    monkeypatch.setattr("paretune.pipeline.exporting.verify_export", fail)
    with pytest.raises(VerificationError):
        export(run, ladder=2, quiet=True)
    assert [path.name for path in run.iterdir()] == ["run.lock"]


def test_canaries_of_one_export_are_listed_and_those_of_a_killed_job_are_not_in_the_way(run):
    assert export(run, quiet=True) == 0
    folder = run / "export" / "q4_k"
    assert not (folder / CANARIES).exists()
    (folder / CANARIES).write_text("{}")
    assert export(run, canaries=2, quiet=True) == 0
    check_files(folder)
    assert len(read_canaries(folder).canaries) == 2
    assert json.loads((folder / "paretune.json").read_text())["files"].keys() >= {CANARIES, FILE}
    assert [path.name for path in folder.parent.iterdir()] == ["q4_k"]
