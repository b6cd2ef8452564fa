"""Cost tables: provenance, look-up, joining, files that are whole or absent."""

from __future__ import annotations

import pytest

from paretune.profiles.measured import shipped_table
from paretune.profiles.table import CostTable
from paretune.spaces.errors import RunError
from tests.profiles.fakes import linear, row, table

ONE, OTHER = linear(1, 64, 32), linear(8, 64, 32, "int4", num_bits=4, group_size=32)


def test_round_trip(tmp_path):
    made = table({ONE: 1e-6, OTHER: 2e-6})
    path = made.write(tmp_path / "deep" / "costs.json")
    assert CostTable.read(path) == made
    assert [file.name for file in path.parent.iterdir()] == ["costs.json"], "no temporary file is left"


def test_phase_count_and_note_play_no_part():
    found = table({ONE: 1e-6}).find(linear(1, 64, 32, count=7, note="anything"))
    assert found is not None
    assert found.seconds == 1e-6


def test_formats_are_told_apart():
    assert linear(8, 64, 32, "int4", num_bits=4, group_size=64) not in table({OTHER: 1.0})
    assert OTHER in table({OTHER: 1.0})
    assert "a string" not in table({OTHER: 1.0})


def test_newer_rows_replace_older_ones_of_the_same_origin():
    joined = table({ONE: 1.0, OTHER: 2.0}).joined([row(ONE, 3.0), row(ONE, 4.0, device="elsewhere")])
    assert len(joined.rows) == 3
    here = joined.of(device="round", engine="fake", engine_version="1")
    assert here.find(ONE).seconds == 3.0
    assert joined.of(device="round", engine="fake", engine_version="2").rows == ()


@pytest.mark.parametrize("text", ["", "{", '{"rows": [{"device": "x"}]}', '{"unknown": 1}'])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(RunError, match=r"costs\.json"):
        CostTable.read(tmp_path / "costs.json")


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(RunError, match="No such file"):
        CostTable.read(tmp_path / "none.json")


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "costs.json").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        table({ONE: 1.0}).write(tmp_path / "costs.json")
    assert [file.name for file in tmp_path.iterdir()] == ["costs.json"]


def test_a_table_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for below in ("costs.json", "deeper/costs.json"):
        with pytest.raises(RunError, match="cannot be written"):
            table({ONE: 1.0}).write(tmp_path / "file" / below)


def test_shipped_rows_say_where_they_are_from():
    rows = shipped_table().rows
    assert rows
    for each in rows:
        assert each.seconds > 0
        assert each.device
        assert each.engine_version
        assert each.how
        assert each.date
