"""Folders that appear whole, and places where none can be."""

from __future__ import annotations

import os

import pytest

from paretune.spaces.errors import EngineError
from paretune.spaces.files import written_whole


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
