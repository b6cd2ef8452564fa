"""Folders that appear whole, and places where none can be."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from paretune.compressors.companions import copy_companions
from paretune.spaces.errors import EngineError, ModelError, RunError
from paretune.spaces.files import (
    FileKind,
    append_line,
    inside,
    parse_yaml,
    read_object,
    refuse_linked_out,
    write_whole,
    written_whole,
)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with written_whole(tmp_path / "a" / "b") as partial:
        (partial / "file").write_text("text")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"
    with pytest.raises(EngineError, match="No space left"), written_whole(tmp_path / "a" / "c"):
        raise OSError(28, "No space left on device")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("below", ["export", "deeper/export"])
def test_a_place_below_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(EngineError, match="cannot be written"),
        written_whole(tmp_path / "file" / below),
    ):
        pass


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_what_is_written_has_the_modes_that_the_user_gives(tmp_path, mask, file_mode, folder_mode):
    before = os.umask(mask)
    try:
        with written_whole(tmp_path / "export") as partial:
            (partial / "below").mkdir()
            for file in (partial / "weights", partial / "below" / "more"):
                file.write_bytes(b"x")
                file.chmod(0o600)
    finally:
        os.umask(before)
    written = tmp_path / "export"
    assert {(written / name).stat().st_mode & 0o777 for name in ("weights", "below/more")} == {file_mode}
    assert {(written / name).stat().st_mode & 0o777 for name in (".", "below")} == {folder_mode}


_KIND = FileKind("file of a test", RunError, "Mend it", 1000)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff{}", "no UTF-8"),
        (b"[" * 450 + b"]" * 450, "nested deeper"),
        (b"[1]", "must hold an object"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b" " * 1001, "larger than"),
        (b'{"a": 1' + b"0" * 5, "not JSON"),
    ],
)
def test_what_is_no_object_of_json_is_refused(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RunError, match=said):
        read_object(tmp_path / "file", _KIND)


def test_folders_and_nothing_are_refused(tmp_path):
    for place in (tmp_path, tmp_path / "absent", tmp_path / "a\0b"):
        with pytest.raises(RunError, match="cannot be read"):
            read_object(place, _KIND)


@pytest.mark.parametrize("text", ["a: 2026-01-01", "&a [*a]", "a: !!int x", "a: 0x_", "[" * 3000, "!!bool x"])
def test_yaml_is_held_to_the_values_of_json(text):
    with pytest.raises(RunError):
        parse_yaml(text, "text", _KIND)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", "before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_whole(tmp_path / "file", "after")
    with pytest.raises(RunError, match="No space left"):
        append_line(tmp_path / "file", "line")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../b", "link/x", "link", "a\\b"])
def test_names_that_leave_a_folder_are_no_names_in_it(tmp_path, name):
    (tmp_path / "link").symlink_to("/etc")
    assert inside(tmp_path, name) is None
    assert inside(tmp_path, "sub/file") == tmp_path / "sub" / "file"


def test_links_lead_into_a_hubs_cache_and_nowhere_else(tmp_path):
    cache = tmp_path / "models--owner--name"
    snapshot, blobs = cache / "snapshots" / "1", cache / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "hash").write_text("weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash")
    assert refuse_linked_out(snapshot / "model.safetensors", snapshot)
    (tmp_path / "secret").write_text("private")
    (snapshot / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="link out of the model folder"):
        copy_companions(snapshot, tmp_path)


_ELSEWHERE = {
    "compressors/documents.py": "a line of JSONL that may be anything",
    "engines/environments.py": "what an interpreter printed",
    "engines/llama/gguf_file/convert_model.py": "a script that stands alone",
    "engines/reference.py": "an array in memory",
    "engines/runner.py": "a script that stands alone",
    "engines/vllm/kernels.py": "data of the package",
    "engines/checkpoint/reloading.py": "a log of our own process",
    "engines/export_folder.py": "a text whose bytes are replaced where they are none",
    **{
        f"engines/recipes/{name}.py": "words of its docstring"
        for name in ("auto_round", "gptqmodel", "torchao")
    },
    "evaluators/task_loading.py": "YAML with tags of lm-eval",
    "monitoring/memory.py": "/proc, and a file that a server writes",
    "pipeline/memory.py": "/proc",
    "profiles/devices/local_cpu.py": "/proc and /sys",
    "profiles/energy.py": "/sys",
    "reports/report.py": "data of the package",
    "search/record_lines.py": "lines that carry a checksum of their own",
    "search/trials.py": "lines that carry a checksum of their own",
}
_BARE = re.compile(r"\.read_text\(|json\.loads?\(|safe_load|\.read_bytes\(|\.write_text\(|\.write_bytes\(")


def test_files_are_read_and_written_in_one_place():
    root = Path(__file__).parents[2]
    floors = [
        p
        for p in root.iterdir()
        if (p / "__init__.py").is_file() and p.name not in ("tests", "benchmarks", "demo")
    ]
    found = {
        file.relative_to(root).as_posix()
        for floor in floors
        for file in floor.rglob("*.py")
        if _BARE.search(file.read_text(encoding="utf-8"))
    }
    assert found - {"spaces/files.py"} <= set(_ELSEWHERE)
