"""Every kind of input and every file of a run folder, of a bank and of an export: a good one, and who reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from paretune.compressors.bank_identity import BankIdentity, _read
from paretune.compressors.documents import read_documents
from paretune.compressors.entry_store import INDEX, EntryStore
from paretune.engines.canary import CANARIES, Canary, CanaryFile, read_canaries
from paretune.engines.manifest import MANIFEST, check_files, manifest_config, read_manifest
from paretune.evaluators.task_loading import check_task_folder
from paretune.monitoring.ladder import LadderFile, Rung, default_trigger, read_ladder
from paretune.pipeline.run_file import _rule, read_run_file, validate_run
from paretune.profiles.predictor import MeasuredRun
from paretune.profiles.predictor_file import PredictorFile
from paretune.profiles.table import CostTable
from paretune.reports.compared import ComparedFile, compared_hashes
from paretune.reports.reading import read_compared, read_front, read_run_folder
from paretune.search.promotion import promote
from paretune.search.records import RecordFile
from paretune.search.result import build_front, write_front
from paretune.search.run_folder import check_run_folder, tie_run_folder
from paretune.search.settings import SearchSettings
from paretune.search.storage import StudyStorage
from paretune.search.trials import Trials
from paretune.spaces.architectures import read_model
from paretune.spaces.architectures.headers import read_header, weight_files
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ParetuneError, RunError
from paretune.spaces.files import FileKind, read_document, sha256_of_file, write_document, write_json
from paretune.spaces.limits import Limit
from paretune.spaces.schema import Document, sealed
from paretune.spaces.target import Workload
from tests.models import FAMILIES
from tests.reports.synthetic import write_run
from tests.search.fake_study import make_study

Outcome = Literal["refused", "repaired", "accepted_right", "wrong", "traceback"]
_PREDICTOR = FileKind("predictor", RunError, "Choose another folder with --out")
TABLE = Path(__file__).parents[2] / "profiles" / "measured"


@dataclass(frozen=True)
class Target:
    """One file, or one text that is typed.

    Attributes:
        kind: ``input``, ``run folder``, ``bank`` or ``export``.
        name: of the file or option.
        good: its content.
        read: what reads it, given other content.
        ours: whether nobody but us writes it: then whatever is read must be what was written, or a part that will be
            made again (``repaired``).
    """

    kind: str
    name: str
    good: bytes
    read: Callable[[bytes], Any]
    ours: bool = False
    repairs: Callable[[Any, Any], bool] = lambda found, whole: False

    def outcome(self, content: bytes, whole: Any) -> tuple[Outcome, str]:
        """What becomes of it beside what is read of the good one, and in words where that is wrong."""
        try:
            found = self.read(content)
        except ParetuneError as error:
            complete = error.value and error.rule and error.remedy and error.exit_code in (1, 2)
            return ("refused", "") if complete else ("wrong", f"a refusal without words: {error}")
        except Exception as error:  # noqa: BLE001 -- whatever is no refusal is what is looked for
            return "traceback", f"{type(error).__name__}: {error}"[:300]
        if not self.ours or found == whole:
            return "accepted_right", ""
        return ("repaired", "") if self.repairs(found, whole) else ("wrong", f"read {found!r}"[:300])


def targets(folder: Path) -> Iterator[Target]:
    """All of them, their good files below ``folder``."""
    yield from _inputs(folder / "inputs")
    yield from _run_folder(folder / "run")
    yield from _bank(folder / "bank")
    yield from _export(folder / "export")


def _at(file: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    def place_and_read(content: bytes) -> Any:
        file.write_bytes(content)
        return read()

    return place_and_read


def _typed(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda content: read(content.decode("utf-8", "replace"))


def _inputs(folder: Path) -> Iterator[Target]:
    folder.mkdir(parents=True)
    run = folder / "run.yaml"
    settings = {
        "model": "m", "workload": {"batch": 1}, "texts": {"single": {"path": "t", "documents": [0, 1, 2]}},
        "space": {"bits": [4, 8], "rules": [{"pattern": "*", "bits": [4]}]}, "search": {"limits": ["kl<=0.1"]},
    }  # fmt: skip
    yield Target(
        "input",
        "run file",
        json.dumps(settings).encode(),
        _at(run, lambda: validate_run(read_run_file(run), "x")),
    )
    yield Target("input", "--limit", b"weight_bytes<=1.5GB", _typed(Limit.parse))
    yield Target("input", "--rule", b"*.down_proj:bits=4,8;group_size=64", _typed(_rule))
    yield Target("input", "--workload", b"batch=8,prompt=512,output=128", _typed(Workload.parse))
    for family in ("llama", "gpt2", "qwen3_moe", "gemma3"):
        config, _, arguments = FAMILIES[family]
        place = folder / family
        place.mkdir()
        import transformers

        good = getattr(transformers, config)(**arguments).to_json_string(use_diff=False).encode()
        values = {**json.loads(good), "architectures": [FAMILIES[family][1]]}
        file = place / "config.json"
        yield Target(
            "input",
            f"config.json ({family})",
            json.dumps(values).encode(),
            _at(file, lambda p=place: read_model(p)),
        )
    weights = folder / "weights.safetensors"
    good = save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})
    yield Target("input", "safetensors", good, _at(weights, lambda: read_header(weights)))
    shards = folder / "shards"
    shards.mkdir()
    (shards / "a.safetensors").write_bytes(good)
    index = json.dumps({"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}).encode()
    place = shards / "model.safetensors.index.json"
    yield Target("input", place.name, index, _at(place, lambda: weight_files(shards)))
    text = folder / "text.txt"
    yield Target(
        "input", "text", "Grüße.\n\nMore text.\n\nThe end.".encode(), _at(text, lambda: read_documents(text))
    )
    tasks = folder / "tasks"
    tasks.mkdir()
    task = b"task: one\ndataset_path: json\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\n"
    yield Target("input", "task YAML", task, _at(tasks / "one.yaml", lambda: check_task_folder(tasks)))
    table = CostTable(rows=CostTable.read(next(iter(sorted(TABLE.glob("*.json"))))).rows[:3])
    costs = folder / "costs.json"
    write_document(costs, table)
    yield Target(
        "input", "cost table", costs.read_bytes(), _at(costs, lambda: CostTable.read(costs)), ours=True
    )


def _run_folder(folder: Path) -> Iterator[Target]:
    study = make_study(folder, SearchSettings(max_candidates=6))
    study.run()
    front = build_front(study, promote(study))
    write_front(front, folder)
    other = write_run(folder.parent / "written")
    report = read_run_folder(other)
    write_document(other / "run.json", report.run)
    write_document(other / "front.json", report.front)
    tie_run_folder(folder, {"model": "a" * 64, "text": "b" * 64})
    objectives = study.settings.objectives

    def begins(found: Any, whole: Any) -> bool:
        return found == whole[: len(found)]

    def records() -> list[str]:
        return [record.to_json() for record in RecordFile(folder)]

    def journal() -> list[Any]:
        found = StudyStorage(folder, objectives, study.space)
        for record in RecordFile(folder):
            found.add(record)
        trials = found.study.get_trials(deepcopy=False)
        return sorted(
            (trial.user_attrs["index"], trial.user_attrs["digest"], *trial.values) for trial in trials
        )

    yield Target(
        "run folder", "study.journal", (folder / "study.journal").read_bytes(),
        _at(folder / "study.journal", journal), ours=True,
    )  # fmt: skip
    for name in ("records.jsonl", "configurations.jsonl"):
        good = (folder / name).read_bytes()
        yield Target("run folder", name, good, _at(folder / name, records), ours=True, repairs=begins)
        (folder / name).write_bytes(good)
    timed = MeasuredRun(CompressionConfig(), Workload(), tpot_s=0.5)
    written: dict[str, Document] = {
        "predictor.json": PredictorFile(
            engine="fake", engine_version="1", device="cpu", workload=Workload(), runs=(timed,)
        ),
        "compared.json": ComparedFile(
            hashes=compared_hashes(report.run), predicted_tokens=127, window_bytes=(400, 401)
        ),
        "ladder.json": LadderFile(
            rungs=(
                Rung(
                    folder="one",
                    name="one",
                    weight_bytes=5.0,
                    kl=0.1,
                    launch="serve",
                    trigger=default_trigger(0.1),
                ),
            )
        ),
    }
    for name, document in written.items():
        write_document(other / name, document)
    readers: dict[str, Callable[[], Any]] = {
        "front.json": lambda: read_front(other),
        "run.json": lambda: read_run_folder(other).run,
        "predictor.json": lambda: read_document(other / "predictor.json", PredictorFile, _PREDICTOR),
        "compared.json": lambda: read_compared(other, report.run),
        "ladder.json": lambda: read_ladder(other).rungs,
    }
    for name, read in readers.items():
        good = (other / name).read_bytes()
        yield Target("run folder", name, good, _at(other / name, read), ours=True)
        (other / name).write_bytes(good)
    trials = Trials(folder, ())
    trials.ask((0,) * 4, {"drawn": 3})
    yield Target(
        "run folder", trials.path.name, trials.path.read_bytes(),
        _at(trials.path, lambda: _kept_trials(Trials(folder, ()))), ours=True,
    )  # fmt: skip
    tie = folder / "fingerprint.json"
    yield Target(
        "run folder", "fingerprint.json", tie.read_bytes(),
        _at(tie, lambda: check_run_folder(folder, {"model": "a" * 64, "text": "b" * 64})), ours=True,
    )  # fmt: skip


def _kept_trials(trials: Trials) -> Any:
    return trials.asked, trials.pending, trials.state


def _bank(folder: Path) -> Iterator[Target]:
    import torch

    folder.mkdir(parents=True)
    identity = folder / "bank.json"
    write_document(identity, BankIdentity.of("m" * 64, "c" * 64, "bfloat16"))
    yield Target(
        "bank", "bank.json", identity.read_bytes(), _at(identity, lambda: _read(identity)), ours=True
    )
    store = EntryStore(folder)
    for name in ("one", "two", "three"):
        store.write(name, {"codes": torch.ones(4, 4, dtype=torch.int8)})

    def entries() -> list[str]:
        found = EntryStore(folder)
        return [name for name in ("one", "two", "three") if name in found and found.read(name)]

    def fewer(found: Any, whole: Any) -> bool:
        return set(found) <= set(whole)  # what is not known is made again

    index = folder / INDEX
    yield Target("bank", INDEX, index.read_bytes(), _at(index, entries), ours=True, repairs=fewer)
    entry = store.path("one")

    def read_one() -> Any:
        return sorted((name, tensor.tolist()) for name, tensor in EntryStore(folder).read("one").items())

    yield Target("bank", "entry", entry.read_bytes(), _at(entry, read_one), ours=True)


def _export(folder: Path) -> Iterator[Target]:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(save({"a": np.ones((2, 3), np.float32)}))
    (folder / "config.json").write_text("{}")
    canary = Canary(ids=(1, 2), text=None, top_ids=(3,), top_tokens=("x",), log_probabilities=(-0.5,))
    write_document(folder / CANARIES, CanaryFile(engine="fake", engine_version="1", canaries=(canary,)))
    config = CompressionConfig()
    files = {file.name: sha256_of_file(file) for file in sorted(folder.iterdir())}
    manifest = {
        "name": "x", "engine": "vllm", "files": files,
        "digest": config.digest, "config": config.model_dump(mode="json"),
        "figures": {"kl": 0.1}, "weight_bytes": 24, "base": {"vocabulary": 8},
    }  # fmt: skip
    write_json(folder / MANIFEST, sealed(manifest))

    def read() -> Any:
        check_files(folder)
        found = read_manifest(folder)
        return found, manifest_config(found, folder), read_canaries(folder)

    for file in sorted(folder.iterdir()):
        good = file.read_bytes()
        yield Target("export", file.name, good, _at(file, read), ours=True)
        file.write_bytes(good)


def clean(folder: Path) -> None:
    """Remove what :func:`targets` wrote."""
    shutil.rmtree(folder, ignore_errors=True)
