"""Configurations that came from elsewhere are checked against their model."""

from __future__ import annotations

import pickle

import pytest

from paretune.spaces.checking import check_configuration
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import (
    ConfigurationError,
    FormatError,
    ModelError,
    ParetuneError,
    UnknownNameError,
)
from paretune.spaces.formats import integer_format
from tests.fakes import tiny_spec

SPEC = tiny_spec()
FOUR = LayerChoice(weight=integer_format(4, 128), method="rtn")
DOWN = "model.layers.0.mlp.down_proj"


def test_a_configuration_that_fits():
    check_configuration(
        SPEC, CompressionConfig(layers={DOWN: FOUR}, pruned=PrunedShape(blocks=(0, 1), ffn_channels=128))
    )


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        (CompressionConfig(layers={"model.layers.9.mlp.down_proj": FOUR}), ModelError, "is not a linear"),
        (CompressionConfig(layers={"lm_head": FOUR}), ConfigurationError, r"tied.*model\.embed_tokens"),
        (
            CompressionConfig(layers={DOWN: FOUR}, pruned=PrunedShape(blocks=(1,))),
            ConfigurationError,
            "block that is cut",
        ),
        (
            CompressionConfig(layers={DOWN: FOUR}, pruned=PrunedShape(ffn_channels=192)),
            FormatError,
            "must divide the row length 192",
        ),
        (CompressionConfig(pruned=PrunedShape(blocks=(0, 3))), ConfigurationError, "the model has 3"),
        (CompressionConfig(pruned=PrunedShape(kv_heads=3)), ConfigurationError, "the model has 2"),
        (CompressionConfig(pruned=PrunedShape(ffn_channels=257)), ConfigurationError, "the model has 256"),
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
