"""What is offered for vLLM is what it loaded; and the program that tries it packs codes as exports do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.benchmarks import vllm_layers
from paretune.benchmarks.legality import COLUMNS, MODELS
from paretune.benchmarks.tables import RESULTS, read_table

ROWS = read_table("legality")


def test_the_table_has_columns_devices_and_every_hidden_size():
    lines = (RESULTS / "legality.csv").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == ",".join(COLUMNS)
    assert {row["device"] for row in ROWS} >= {"h200", "x86-amx"}
    for device in ("h200", "x86-amx"):
        assert len([row for row in ROWS if row["device"] == device]) >= 60
    assert len(ROWS) >= 120
    sizes = {int(str(row[name])) for row in ROWS for name in ("rows", "columns")}
    assert sizes >= {hidden for hidden, *_ in MODELS}
    assert sum(int(str(row["rows"])) % 128 != 0 for row in ROWS) >= 40
    assert sum(row["offered"] == "true" for row in ROWS) >= 60


def test_nothing_is_offered_that_did_not_load_and_nothing_refused_that_did():
    assert [row for row in ROWS if row["offered"] != row["loaded"]] == []


@given(st.sampled_from([2, 3, 4, 5, 6, 8]), st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**31))
def test_codes_are_packed_as_exports_pack_them(bits, rows, columns, seed):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    half = 1 << (bits - 1)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-half, half, (rows, columns), generator=generator, dtype=torch.int8)
    expected = helpers.pack_to_int32(codes, bits)
    assert torch.equal(vllm_layers._packed(codes.long() + half, bits), expected)
