"""Run folders that are whole, torn, damaged or absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paretune.reports.reading import read_run_folder, read_trials
from paretune.spaces.errors import RunError
from paretune.spaces.files import write_json
from paretune.spaces.schema import sealed, unsealed


def test_records_become_trials(run: Path) -> None:
    folder = read_run_folder(run)
    lines = (run / "records.jsonl").read_text().splitlines()
    assert len(folder.trials) == len(lines)
    assert [trial.index for trial in folder.trials] == list(range(len(lines)))
    assert folder.trials[0].values["kl"] == json.loads(lines[0])["measurements"]["kl"]["value"]


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    path = run / "records.jsonl"
    whole = len(path.read_text().splitlines())
    path.write_text(path.read_text()[:-100])
    assert len(list(read_trials(path))) == whole - 1


def test_damage_before_the_last_line_is_refused(run: Path) -> None:
    path = run / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[2:]]))
    with pytest.raises(RunError, match="line 2 of"):
        list(read_trials(path))


def test_a_run_without_records_can_be_read(run: Path) -> None:
    (run / "records.jsonl").unlink()
    assert read_run_folder(run).trials == ()


@pytest.mark.parametrize("name", ["front.json", "run.json"])
def test_missing_files_are_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=name) as caught:
        read_run_folder(run)
    assert "paretune search" in caught.value.remedy


def test_unknown_keys_are_named(run: Path) -> None:
    found = unsealed(json.loads((run / "run.json").read_text()))
    write_json(run / "run.json", sealed(found | {"colour": "red"}))
    with pytest.raises(RunError, match="colour"):
        read_run_folder(run)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        read_run_folder(tmp_path / "nowhere")


def test_nothing_heavy_is_loaded() -> None:
    program = (
        "import sys\n"
        "import paretune.reports.report\n"
        "import paretune.reports.summary\n"
        "import paretune.reports.selection\n"
        "import paretune.commands.report\n"
        "import paretune.commands.select\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'optuna', 'plotly', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, timeout=60)
