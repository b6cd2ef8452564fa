"""The stages of a small search as programs that can be killed: what each leaves, and what is there when it went on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.entry_store import EntryStore
from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.engines.manifest import check_files, read_manifest
from paretune.search.baselines import uniform_configurations
from paretune.search.promotion import promote
from paretune.search.records import RecordFile
from paretune.search.result import build_front, write_front
from paretune.search.settings import SearchSettings
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import make_windows
from tests.fakes import FakeLegality
from tests.models import build_tiny
from tests.search.fake_study import make_study

_SETTINGS = SearchSettings(max_candidates=24, seed=3)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of it.
        before: makes what it starts from, in a folder.
        run: does it, or goes on with it, in that folder.
        facts: what is there afterwards, by name: equal for the stage that went on and the undisturbed one.
        names: of what must be there once.
    """

    name: str
    before: Callable[[Path], None]
    run: Callable[[Path], None]
    facts: Callable[[Path], dict[str, Any]]
    names: Callable[[Path], list[str]]


def killed(stage: Stage, folder: Path, kills: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Kill the stage at random moments, let it go on, and hold what is there against the undisturbed one."""
    first = folder / "first"
    stage.before(first)
    shutil.copytree(first, folder / "whole")
    began = time.monotonic()
    assert _in_child(stage, folder / "whole") == 0, f"{stage.name} does not run"
    seconds = time.monotonic() - began
    whole, names = stage.facts(folder / "whole"), Counter(stage.names(folder / "whole"))
    chance, found, faults = random.Random(seed), Counter[str](), []
    for number in range(kills):
        place = folder / f"kill-{number}"
        shutil.copytree(first, place)
        ended = _in_child(stage, place, chance.uniform(0.0, seconds))
        code = _in_child(stage, place)
        if code:
            found["traceback"] += 1
            faults.append(f"{stage.name}, kill {number}: it does not go on")
            continue
        there = Counter(stage.names(place))
        lost, doubled = names - there, there - names
        found["lost"] += lost.total()
        found["doubled"] += doubled.total()
        same = stage.facts(place) == whole
        found["wrong" if not same else "accepted_right" if ended == 0 else "repaired"] += 1
        if not same or lost or doubled:
            faults.append(f"{stage.name}, kill {number}: lost {dict(lost)}, doubled {dict(doubled)}")
        shutil.rmtree(place)
    return found, faults


def _in_child(stage: Stage, folder: Path, until: float | None = None) -> int:
    """Exit code of a process that runs the stage, killed after ``until`` seconds where given."""
    child = os.fork()
    if child == 0:
        code = 1
        # Torch makes its pool of threads anew after a fork when it is next asked for, and two loading threads that ask
        # at once find none ("Invalid thread pool"): ask before there are any.
        torch.set_num_threads(1)
        try:
            stage.run(folder)
            code = 0
        except BaseException:  # noqa: BLE001 -- the only words that come out of a child
            traceback.print_exc()
        finally:
            os._exit(code)
    if until is not None:
        time.sleep(until)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def stages(scratch: Path) -> list[Stage]:
    """All of them; a model is made in ``scratch``."""
    source = build_tiny("llama", scratch / "model", dtype="bfloat16")
    return [
        Stage("bank", _empty, lambda folder: _bank(source, folder) and None, _entries, _entry_names),
        Stage("search", _empty, _search, _records, _record_names),
        Stage("judging", _search, _judge, _judged, _record_names),
        Stage(
            "export",
            lambda folder: _bank(source, folder) and None,
            lambda folder: _export(source, folder),
            _exported,
            lambda folder: sorted(read_manifest(folder / "export")["files"]),
        ),
    ]


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True)


def _bank(source: Path, folder: Path) -> Any:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.compressors.loading import load_dense, model_hash
    from paretune.spaces.architectures import read_model

    spec = read_model(source)
    model = load_dense(source, spec)
    bank = Bank.open(folder / "bank", source, model, spec, model_hash(source), make_windows())
    space = SearchSpace(
        spec, FakeLegality(), Restrictions(bits=(4, 8), methods=("rtn",), group_size=32), bank.block_order
    )
    bank.build(space)
    return Assembler(model, spec, bank), space.decode(uniform_configurations(space)[0].point)


def _entry_names(folder: Path) -> list[str]:
    place = folder / "bank" / "entries"
    return sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())


def _entries(folder: Path) -> dict[str, Any]:
    store = EntryStore(folder / "bank")
    names = [name.removesuffix(".safetensors") for name in _entry_names(folder)]
    return {name: {key: tensor.tolist() for key, tensor in store.read(name).items()} for name in names}


def _search(folder: Path) -> None:
    make_study(folder, _SETTINGS).run()


def _record_names(folder: Path) -> list[str]:
    return [f"{record.digest} {record.fidelity.name}" for record in RecordFile(folder)]


def _records(folder: Path) -> dict[str, Any]:
    return {
        f"{record.digest} {record.fidelity.name}": {name: m.value for name, m in record.measurements.items()}
        for record in RecordFile(folder)
    }


def _judge(folder: Path) -> None:
    study = make_study(folder, _SETTINGS)
    study.run()
    write_front(build_front(study, promote(study)), folder)


def _judged(folder: Path) -> dict[str, Any]:
    return {"records": _records(folder), "front": json.loads((folder / "front.json").read_bytes())}


def _export(source: Path, folder: Path) -> None:
    if not (folder / "export").exists():
        assembler, config = _bank(source, folder)
        write_checkpoint(assembler, config, folder / "export", ExportCard(source))
    check_files(folder / "export")


def _exported(folder: Path) -> dict[str, Any]:
    check_files(folder / "export")
    return read_manifest(folder / "export")["files"]
