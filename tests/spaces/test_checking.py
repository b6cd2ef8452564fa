"""Configurations that came from elsewhere are checked against their model."""

from __future__ import annotations

import pickle

import pytest

from spaces.checking import check_configuration
from spaces.choice import SiteChoice
from spaces.configuration import CompressionConfig, Student
from spaces.errors import ConfigurationError, FormatError, ModelError, ParetuneError, UnknownNameError
from spaces.formats import integer_format
from tests.fakes import tiny_spec

SPEC = tiny_spec()
FOUR = SiteChoice(weight=integer_format(4, 128), method="rtn")
DOWN = "model.layers.0.mlp.down_proj"


def test_a_configuration_that_fits():
    check_configuration(
        SPEC, CompressionConfig(sites={DOWN: FOUR}, student=Student(blocks=(0, 1), ffn_channels=128))
    )


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        (CompressionConfig(sites={"model.layers.9.mlp.down_proj": FOUR}), ModelError, "is not a linear"),
        (CompressionConfig(sites={"lm_head": FOUR}), ConfigurationError, r"tied.*model\.embed_tokens"),
        (
            CompressionConfig(sites={DOWN: FOUR}, student=Student(blocks=(1,))),
            ConfigurationError,
            "block that is cut",
        ),
        (
            CompressionConfig(sites={DOWN: FOUR}, student=Student(ffn_channels=192)),
            FormatError,
            "must divide the row length 192",
        ),
        (CompressionConfig(student=Student(blocks=(0, 3))), ConfigurationError, "the model has 3"),
        (CompressionConfig(student=Student(kv_heads=3)), ConfigurationError, "the model has 2"),
        (CompressionConfig(student=Student(ffn_channels=257)), ConfigurationError, "the model has 256"),
    ],
)
def test_configurations_that_do_not(config, error, match):
    with pytest.raises(error, match=match):
        check_configuration(SPEC, config)


@pytest.mark.parametrize(
    "error",
    [
        ModelError("a", "b", "c"),
        UnknownNameError("metric", "kll", ["kl", "bits"]),
        UnknownNameError("x", "y", []),
    ],
)
def test_errors_travel_between_processes(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(again, ParetuneError)
    assert (again.value, again.rule, again.remedy) == (error.value, error.rule, error.remedy)
    assert str(again) == str(error)
