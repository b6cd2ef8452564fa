"""Workloads as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.spaces.errors import ConfigurationError
from paretune.spaces.target import Workload

counts = st.integers(1, 10**6)


@given(counts, counts, counts)
def test_both_spellings_come_back(batch, prompt, output):
    workload = Workload(batch=batch, prompt_tokens=prompt, output_tokens=output)
    assert Workload.parse(workload.name) == workload
    assert Workload.parse(f"batch={batch},prompt={prompt},output={output}") == workload


def test_what_is_left_out_keeps_its_default():
    assert Workload.parse("prompt=512, tensor_parallel=2") == Workload(prompt_tokens=512, tensor_parallel=2)


@pytest.mark.parametrize(
    "text", ["", "8", "batch", "batch=", "batch=0", "batch=-1", "batch=1.5", "batch=x", "batch=1,batch=2",
             "size=3", "arrival=2.5", "batch=nan", "batch=inf", "b0-p1-o1", "b1-p1"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigurationError):
        Workload.parse(text)
