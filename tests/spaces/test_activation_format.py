"""Formats of inputs: names, refusals, and digests that stay what they were."""

import itertools

import pytest

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.errors import FormatError

NAMED = {
    "a8-token": ActivationFormat(),
    "a8-tensor": ActivationFormat(strategy="tensor"),
    "a8-tensor-static": ActivationFormat(strategy="tensor", dynamic=False),
    "a8-g64": ActivationFormat(strategy="group", group_size=64),
    "a8f-token": ActivationFormat(number_type="float"),
    "a8f-tensor": ActivationFormat(number_type="float", strategy="tensor"),
    "a8f-tensor-static": ActivationFormat(number_type="float", strategy="tensor", dynamic=False),
    "a8f-g128": ActivationFormat(number_type="float", strategy="group", group_size=128),
    "a4f-g16-fp8": ActivationFormat(
        num_bits=4, number_type="float", strategy="group", group_size=16, scale="fp8"
    ),
    "a4f-g32-exponent": ActivationFormat(
        num_bits=4, number_type="float", strategy="group", group_size=32, scale="exponent"
    ),
    "a8f-g32-exponent": ActivationFormat(
        number_type="float", strategy="group", group_size=32, scale="exponent"
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_names(name):
    found = NAMED[name]
    assert found.name == name
    assert ActivationFormat.from_json(found.to_json()) == found


def test_what_is_calibrated():
    calibrated = {name for name, found in NAMED.items() if found.calibrated}
    assert calibrated == {"a8-tensor-static", "a8f-tensor-static", "a4f-g16-fp8"}


def test_the_json_of_older_formats_is_what_it_was():
    assert ActivationFormat().to_json() == (
        '{"dynamic":true,"num_bits":8,"number_type":"int","strategy":"token"}'
    )


def test_scales_of_a_token():
    assert NAMED["a8-token"].scales(100) == 1
    assert NAMED["a8f-g128"].scales(512) == 4
    with pytest.raises(FormatError, match=r"a8f-g128.*100 features"):
        NAMED["a8f-g128"].scales(100)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"dynamic": False}, "not known before run time"),
        ({"dynamic": False, "strategy": "group", "group_size": 128}, "not known before run time"),
        ({"num_bits": 4}, "4-bit int inputs"),
        ({"num_bits": 4, "number_type": "float"}, "E2M1 under block scales"),
        ({"num_bits": 4, "number_type": "float", "strategy": "group", "group_size": 16}, "block scales"),
        ({"strategy": "group"}, "have a size"),
        ({"group_size": 128}, "have a size"),
        ({"strategy": "group", "group_size": 0}, "positive"),
        ({"scale": "exponent"}, "floats in groups of 32"),
        ({"scale": "exponent", "number_type": "float"}, "floats in groups of 32"),
        ({"scale": "exponent", "strategy": "group", "group_size": 32}, "floats in groups of 32"),
        (
            {"scale": "fp8", "num_bits": 4, "number_type": "float", "strategy": "group", "group_size": 32},
            "groups of 16",
        ),
        ({"scale": "fp8", "number_type": "float", "strategy": "group", "group_size": 16}, "has 4 bits"),
    ],
)
def test_refusals(fields, rule):
    with pytest.raises(FormatError, match=rule):
        ActivationFormat(**fields)


def test_every_format_that_exists_has_a_name_of_its_own():
    found = {}
    for bits, number, strategy, size, scale, dynamic in itertools.product(
        (4, 8),
        ("int", "float"),
        ("token", "tensor", "group"),
        (None, 16, 32, 128),
        ("model", "fp8", "exponent"),
        (True, False),
    ):
        try:
            made = ActivationFormat(
                num_bits=bits,
                number_type=number,
                strategy=strategy,
                group_size=size,
                scale=scale,
                dynamic=dynamic,
            )
        except FormatError:
            continue
        assert found.setdefault(made.name, made) == made
    # by token, by tensor (and static) and three groups, for integers and E4M3; three block formats
    assert len(found) == 2 * 6 + 3
