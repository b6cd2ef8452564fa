"""Exports of mixtures are the candidates that were searched, in every dtype that models are published in.

``transformers`` expands quantized experts in the dtype of their scales, whatever it computes in then: a candidate is
scored, and an export of it compared, with experts that are expanded so.
"""

from __future__ import annotations

import pytest
import torch

from paretune.compressors.bank import Bank
from paretune.engines import find_engine
from paretune.engines.engine import ExportCard
from paretune.engines.verification import EXACT_TOLERANCE, verify_export
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.formats import integer_format
from tests.engines.conftest import assembled_logits, build, divergence, uniform

METHODS = ("rtn", "gptq", "hqq", "awq")


def at_four_bits(one, method):
    """Every layer inside the blocks; hqq, which needs zero points, where experts have none, beside experts by rtn."""
    symmetric = LayerChoice(weight=integer_format(4, 32), method="rtn" if method == "hqq" else method)
    config = uniform(one.spec, symmetric)
    if method != "hqq":
        return config
    moved = LayerChoice(weight=integer_format(4, 32, symmetric=False), method="hqq")
    own = {x.name: moved for x in one.spec.block_linears if not x.role.startswith("expert")}
    return config.replaced(layers={**config.layers, **own})


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(x, marks=pytest.mark.engine) for x in ("float16", "float32"))]
)
def test_experts_of_every_method_are_verified(family, dtype, tmp_path, monkeypatch):
    engine, one = find_engine("torch-cpu"), build(tmp_path, family, dtype=dtype)
    configs = {method: at_four_bits(one, method) for method in METHODS}
    folders = []
    for method, config in configs.items():
        one.assembler.bank.build_for(config)
        folders.append(engine.export(one.assembler, config, tmp_path / method, ExportCard(one.folder)))
    found = dict(zip(folders, engine.many_predictions(folders, one.ids), strict=True))
    monkeypatch.setattr(type(engine), "predictions", lambda engine, folder, ids: found[folder])
    for folder, config in zip(folders, configs.values(), strict=True):
        verified = verify_export(engine, one.assembler, config, folder, one.ids)
        assert verified.tolerance == EXACT_TOLERANCE
        # On these tiny models experts that are not rounded are 1e-6 nats away, on larger ones up to 4e-3.
        assert verified.kl < 2e-7


def test_experts_are_rounded_where_the_engine_says_so(tmp_path):
    one = build(tmp_path, "qwen3_moe")
    config = at_four_bits(one, "rtn")
    executed = find_engine("torch-cpu").executed_config(one.spec, config, "cpu")
    assert executed.rounded_experts
    assert not find_engine("vllm").executed_config(one.spec, config, "h100").rounded_experts
    exact, rounded = assembled_logits(one, config), assembled_logits(one, executed)
    assert divergence(exact, rounded) > 1e-7
    linear = next(x for x in one.spec.block_linears if x.role == "expert_down")
    loaded = one.assembler.apply(executed).get_parameter(linear.parameter)
    assert torch.equal(loaded, loaded.to(torch.bfloat16).float())
    assert torch.equal(assembled_logits(one, config), exact)
    assert one.assembler.swapped == sum(x.role.startswith("expert") for x in one.spec.block_linears)


def test_a_model_without_experts_is_computed_as_it_is_stored(tmp_path):
    one = build(tmp_path, "llama")
    executed = find_engine("torch-cpu").executed_config(one.spec, at_four_bits(one, "rtn"), "cpu")
    assert executed == at_four_bits(one, "rtn")
    assert isinstance(one.assembler.bank, Bank)
    assert CompressionConfig.from_json(executed.to_json()) == executed
