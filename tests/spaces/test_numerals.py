"""Numbers as people read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.spaces.measurement import Measurement
from paretune.spaces.numerals import (
    change,
    change_with_error,
    counted,
    digits,
    duration,
    measured,
    percent,
    quantity,
    with_error,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.012345, "0.0123"),
        (0.0099999, "0.0100"),
        (9.996, "10.0"),
        (1234.5, "1,234"),
        (0.0, "0"),
        (2.4e-5, "2.40e-5"),
        (-3.14159, "-3.14"),
        (999.7, "1,000"),
        (100.0, "100"),
    ],
)
def test_digits(value: float, shown: str) -> None:
    assert digits(value) == shown


@given(st.floats(min_value=1e-4, max_value=1e12))
def test_three_digits_are_within_half_a_per_cent(value: float) -> None:
    assert float(digits(value).replace(",", "")) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.012345, 0.00041, "0.0123 ± 0.0004"),
        (0.012345, 0.00012, "0.01235 ± 0.00012"),
        (0.0123, None, "0.0123"),
        (101.3, 5.4, "101 ± 5"),
        (3.1e-7, 2e-8, "3.1e-7 ± 2e-8"),
        (0.0, 0.0, "0"),
    ],
)
def test_errors_decide_the_decimals(value: float, stderr: float | None, shown: str) -> None:
    assert with_error(value, stderr) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (7_348_000, "B", "7.35 MB"),
        (912, "B", "912 B"),
        (0.00182, "s", "1.82 ms"),
        (3e-7, "s", "0.300 µs"),
        (4.25, "bit", "4.25 bit"),
        (0.0042, "J", "4.20 mJ"),
        (12.0, "", "12.0"),
        (3.2e9, "B", "3.20 GB"),
    ],
)
def test_pretty_units(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_a_measurement_carries_its_error_into_the_unit() -> None:
    assert measured(Measurement(value=0.00212, unit="s", stderr=0.00003)) == "2.12 ± 0.03 ms"
    spread = Measurement(value=0.00212, unit="s", spread=0.00003)
    assert measured(spread) == "2.12 ms (half of its rounds within ± 0.03)"


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.27, "27 %"), (0.984, "98.4 %"), (1.0, "100 %"), (0.0312, "3.1 %"), (1.02, "102 %")],
)
def test_percent(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.27, "−73 %"), (1.04, "+4 %"), (1.0, "unchanged"), (1.002, "+0.2 %")]
)
def test_change(ratio: float, shown: str) -> None:
    assert change(ratio) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (38, "38 s"), (252, "4 min 12 s"), (7380, "2 h 3 min"), (59.9, "1 min 0 s")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_change_with_error() -> None:
    assert change_with_error(1.013, 0.054) == "+1 ± 5 %"
    assert change_with_error(0.984, 0.0052) == "−1.6 ± 0.5 %"
    assert change_with_error(0.98, None) == "−2 %"
    assert change_with_error(1.0, 0.0) == "unchanged"


@given(st.floats(min_value=1e-9, max_value=1e9), st.floats(min_value=1e-9, max_value=1e9))
def test_value_and_error_have_the_same_decimals(value: float, stderr: float) -> None:
    left, right = with_error(value, stderr).split(" ± ")
    if "e" not in left + right:
        assert len(re.sub(r"^[^.]*\.?", "", left)) == len(re.sub(r"^[^.]*\.?", "", right))


def test_counted() -> None:
    assert (counted(1, "member"), counted(1200, "member")) == ("1 member", "1,200 members")
