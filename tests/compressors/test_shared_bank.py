"""One bank, several processes: each entry once and whole, nothing left of those that were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from paretune.compressors.covariance import covariance_bytes
from paretune.compressors.entry_store import EntryStore, lock_bank
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import RunError
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import make_bench
from tests.fakes import FakeLegality

ROOT = Path(__file__).resolve().parents[2]
_WRITER = """
import sys, torch
from pathlib import Path
from paretune.compressors.covariance import covariance_bytes
from paretune.compressors.entry_store import EntryStore
folder, own = Path(sys.argv[1]), sys.argv[2]
store = EntryStore(folder)
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    # The same entries, of other content: whoever is first counts.
    for name in (f"same/{number}", f"{own}/{number}"):
        if name not in store:
            store.write(name, {"codes": torch.full((4096,), int(own), dtype=torch.uint8)})
        assert len(set(store.read(name)["codes"].tolist())) == 1
print(len(store))
"""


class Writer(subprocess.Popen):
    """A process with the bank open, which writes when it is told to."""

    def __init__(self, *arguments, program=_WRITER):
        super().__init__(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.stdout.readline() == "ready\n"

    def begin(self):
        self.stdin.write("go\n")
        self.stdin.flush()


def test_two_processes_make_the_same_and_other_entries_at_once(tmp_path):
    with Writer(tmp_path, 1) as one, Writer(tmp_path, 2) as other:
        one.begin()
        other.begin()
        assert (one.wait(60), other.wait(60)) == (0, 0)
    store = EntryStore(tmp_path)
    named = [json.loads(line)["name"] for line in (tmp_path / "entries.jsonl").read_text().splitlines()]
    assert len(named) == len(set(named)) == len(store) == 180
    for name in named:
        values = set(store.read(name)["codes"].tolist())
        assert values in (({1}, {2}) if name.startswith("same/") else ({int(name[0])},))
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_another_has_made_since_is_there(tmp_path):
    one, other = EntryStore(tmp_path), EntryStore(tmp_path)
    one.write("a/b", {"codes": torch.zeros(4, dtype=torch.uint8)})
    assert "a/b" in other
    other.write("a/b", {"codes": torch.ones(4, dtype=torch.uint8)})
    assert other.read("a/b")["codes"].tolist() == one.read("a/b")["codes"].tolist() == [0, 0, 0, 0]


def test_nobody_writes_while_another_does(tmp_path):
    with Writer(tmp_path, 1) as process:
        with lock_bank(tmp_path):
            process.begin()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            assert len(EntryStore(tmp_path)) == 0
        assert process.wait(60) == 0


def test_a_lock_goes_with_its_process(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from paretune.compressors.entry_store import lock_bank\n"
        "with lock_bank(Path(sys.argv[1])): print('ready', flush=True); time.sleep(60)"
    )
    with Writer(tmp_path, program=program) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        EntryStore(tmp_path).write("a/b", {"codes": torch.zeros(4, dtype=torch.uint8)})
        assert time.monotonic() - started < 30


def test_leftovers_of_a_kill_are_gone_when_the_bank_is_opened(tmp_path):
    EntryStore(tmp_path).write("a/b", {"codes": torch.zeros(4, dtype=torch.uint8)})
    left = [
        tmp_path / "entries" / "a" / ".c.safetensors.123.tmp",
        tmp_path / ".statistics.safetensors.9.tmp",
    ]
    for file in left:
        file.write_bytes(b"half")
    index = tmp_path / "entries.jsonl"
    index.write_bytes(index.read_bytes() + b'{"name": "to')
    store = EntryStore(tmp_path)
    assert not any(file.exists() for file in left)
    store.write("d/e", {"codes": torch.ones(4, dtype=torch.uint8)})
    assert [json.loads(line)["name"] for line in index.read_text().splitlines()] == ["a/b", "d/e"]


def test_a_bank_that_cannot_be_written_to_is_read(tmp_path):
    EntryStore(tmp_path).write("a/b", {"codes": torch.zeros(4, dtype=torch.uint8)})
    (tmp_path / "bank.lock").unlink()
    (tmp_path / "bank.lock").mkdir()
    store = EntryStore(tmp_path)
    assert store.read("a/b")["codes"].tolist() == [0, 0, 0, 0]
    with pytest.raises(RunError, match="cannot be written"):
        store.write("c/d", {"codes": torch.zeros(4, dtype=torch.uint8)})


def test_two_banks_of_one_folder_agree(tmp_path):
    """Started at the same time: the statistics of the first count for both."""
    one, other = make_bench("llama", tmp_path / "one"), make_bench("llama", tmp_path / "one")
    assert one.bank.hash == other.bank.hash


def test_room_is_asked_for_what_is_left(tmp_path, monkeypatch):
    """Before anything is made; of a build that was interrupted, only for what is not there yet."""
    from shutil import _ntuple_diskusage

    class KilledError(Exception):
        pass

    def killed(what, done, total):
        if what.startswith("correlating") and done == total - 1:
            raise KilledError

    def free(size):
        monkeypatch.setattr("shutil.disk_usage", lambda _: _ntuple_diskusage(10**9, 10**9, size))

    bench = make_bench("llama", tmp_path)
    space = SearchSpace(
        bench.spec,
        FakeLegality(),
        Restrictions(bits=(4,), embedding_bits=(16,), group_size=None, methods=("gptq",)),
    )
    covariances = covariance_bytes(bench.spec)
    free(covariances)
    with pytest.raises(RunError, match=f"more, and {covariances:,} B are free"):
        bench.bank.build(space)
    assert not (bench.bank.folder / "entries").exists()
    monkeypatch.undo()
    with pytest.raises(KilledError):
        bench.bank.build(space, killed)
    free(covariances)
    bench.bank.build(space)
    free(0)
    bench.bank.build(space)


def test_an_interrupt_never_leaves_a_parameter_with_the_choice_of_another(llama, monkeypatch):
    from tests.compressors.test_bank import choice
    from tests.compressors.test_dense_state import everywhere

    config = everywhere(llama, choice(4))
    slots, handler = llama.assembler._slots, signal.getsignal(signal.SIGINT)
    first, moved = next(iter(slots.values())), []
    real = type(first).__setattr__

    def interrupting(self, name, value):
        real(self, name, value)
        if name == "choice":
            moved.append(name)
            if len(moved) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(type(first), "__setattr__", interrupting)
    with pytest.raises(KeyboardInterrupt):
        llama.assembler.apply(config)
    assert signal.getsignal(signal.SIGINT) is handler
    assert llama.assembler.config == config
    assert len(moved) == llama.assembler.swapped > 1
    llama.assembler.apply(CompressionConfig())
    assert all(slot.parameter.data_ptr() == slot.dense.data_ptr() for slot in slots.values())
