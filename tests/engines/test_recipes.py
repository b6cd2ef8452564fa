"""What every recipe must do; whether the tools understand them is tried by ``benchmarks/recipes.py``."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from paretune.engines.recipes import find_recipe, recipe_names
from paretune.engines.recipes.recipe import Recipe
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError, ModelError, UnknownNameError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice
from tests.fakes import tiny_moe_spec, tiny_spec

Read = dict[str, list[Any]]
"""By module path: everything that a recipe says of it; ``None``: leave it alone."""


def integers(bits: int, group_size: int | None = 32, symmetric: bool = True, **more: Any) -> LayerChoice:
    return LayerChoice.model_validate(
        {"weight": integer_format(bits, group_size, symmetric), "method": "rtn", **more}
    )


def mixed(spec: ModelSpec) -> CompressionConfig:
    """4 bits in block 1, in groups of two sizes; 8 bits by row in block 10; nothing elsewhere."""
    layers = {}
    for linear in spec.block_linears:
        if linear.block == 1:
            layers[linear.name] = integers(4, 64 if linear.role in ("gate", "up") else 32)
        elif linear.block == 10:
            layers[linear.name] = find_choice("int8-channel")
    return CompressionConfig(layers=layers)


def everywhere(spec: ModelSpec, choice: LayerChoice) -> CompressionConfig:
    return CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})


def read_llm_compressor(text: str, names: list[str]) -> Read:
    found: Read = {name: [] for name in names}
    ignored: set[str] = set()
    for group in yaml.safe_load(text)["default_stage"].values():
        for modifier in group.values():
            ignored |= set(modifier.get("ignore", ()))
            for scheme in modifier.get("config_groups", {}).values():
                for target in scheme["targets"]:
                    found[target].append((scheme["weights"]["num_bits"], scheme["weights"].get("group_size")))
    for name in ignored:
        found[name].append(None)
    return found


def read_modelopt(text: str, names: list[str]) -> Read:
    found: Read = {name: [] for name in names}
    first, *rules = ast.literal_eval(text)["quant_cfg"]
    assert first == {"quantizer_name": "*", "enable": False}
    for rule in rules:
        name, _, part = rule["quantizer_name"].rpartition(".")
        if part == "weight_quantizer":
            sizes = rule["cfg"].get("block_sizes", {})
            found[name].append((rule["cfg"]["num_bits"], sizes.get(-1)))
    return {name: said or [None] for name, said in found.items()}


def read_gptqmodel(text: str, names: list[str]) -> Read:
    found: Read = {name: [] for name in names}
    for key, settings in json.loads(text)["dynamic"].items():
        for name in names:
            if re.match(key[2:], name):
                group = settings.get("group_size")
                said = (settings.get("bits"), None if group == -1 else group)
                found[name].append(said if key.startswith("+:") else None)
    return {name: said or [None] for name, said in found.items() if ".layers." in name}


def read_auto_round(text: str, names: list[str]) -> Read:
    found: Read = {name: [] for name in names}
    for name, settings in json.loads(text).items():
        group = settings.get("group_size")
        said = (settings["bits"], None if group == -1 else group)
        found[name].append(None if settings["bits"] == 16 else said)
    return {name: said for name, said in found.items() if "embed" not in name}


def read_torchao(text: str, names: list[str]) -> Read:
    found: Read = {name: [] for name in names}
    for name, settings in json.loads(text)["_data"]["fqn_to_config"].items():
        if settings is None:
            found[name].append(None)
            continue
        bits = int(settings["_data"]["weight_dtype"]["_data"].removeprefix("int"))
        found[name].append((bits, settings["_data"]["granularity"]["_data"].get("group_size")))
    return found


READERS: dict[str, Callable[[str, list[str]], Read]] = {
    "llm-compressor": read_llm_compressor,
    "modelopt": read_modelopt,
    "gptqmodel": read_gptqmodel,
    "auto-round": read_auto_round,
    "torchao": read_torchao,
}


@pytest.fixture
def spec() -> ModelSpec:
    """Blocks 1 and 10 and 11: a name that is the beginning of another must not match it."""
    return tiny_spec(blocks=12)


@pytest.fixture(params=recipe_names())
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return find_recipe(request.param)


def test_every_tool_has_a_reader_here():
    assert set(READERS) == set(recipe_names())


def test_it_says_what_it_is(recipe):
    assert recipe.name in recipe_names()
    assert recipe.file_name.endswith((".yaml", ".json", ".py"))
    assert re.fullmatch(r"[\d.]+", recipe.version)


def test_equal_configurations_give_equal_text(recipe, spec):
    layers = mixed(spec).layers
    turned = CompressionConfig(layers=dict(reversed(layers.items())))
    text = recipe.text(spec, CompressionConfig(layers=layers))
    assert text == recipe.text(spec, turned)
    assert text.endswith("\n")
    assert max(len(line) for line in text.splitlines()) <= 120


def test_every_layer_is_mentioned_once_and_dense_ones_are_left_alone(recipe, spec):
    config = mixed(spec)
    assert recipe.ruling(spec, config)
    read = READERS[recipe.name](recipe.text(spec, config), [linear.name for linear in spec.linears])
    assert {len(said) for said in read.values()} == {1}
    for name, (said,) in read.items():
        choice = config.choice(name)
        wanted = None if choice.untouched else (choice.weight.num_bits, choice.weight.group_size)
        assert said == wanted, name
    assert Counter(said for (said,) in read.values())[(8, None)] == 7


@pytest.mark.parametrize(
    ("choice", "about"),
    [
        (find_choice("nf4"), "nf4"),
        (find_choice("q4_k"), "q4_k"),
        (
            LayerChoice(
                weight=WeightFormat(
                    num_bits=4, number_type="int", group_size=32, symmetric=False, zero_point="float"
                ),
                method="hqq",
            ),
            "asymf",
        ),
        (integers(4, sparsity=Sparsity(fraction=0.5, criterion="magnitude")), "prun|sparsity"),
    ],
    ids=["codebook", "ggml", "float zero point", "pruned by magnitude"],
)
def test_what_no_tool_can_express_is_refused(recipe, spec, choice, about):
    if choice.weight.ggml:
        spec = tiny_spec(hidden=256, ffn=512, heads=8)
    verdict = recipe.ruling(spec, everywhere(spec, choice))
    assert not verdict
    assert re.search(about, verdict.reason)
    assert verdict.reason.startswith("model.layers.0.")
    assert verdict.source == f"{recipe.name} {recipe.version}"
    with pytest.raises(EngineError, match=recipe.name):
        recipe.text(spec, everywhere(spec, choice))


def test_pruned_sizes_caches_and_dense_models_are_refused(recipe, spec):
    config = mixed(spec)
    pruned = config.replaced(pruned=PrunedShape(ffn_channels=128))
    assert "smaller model" in recipe.ruling(spec, pruned).reason
    assert "--weights-only" in recipe.ruling(spec, config.replaced(kv=KVFormat(num_bits=8))).reason
    assert "nothing" in recipe.ruling(spec, DENSE_CONFIG).reason


def test_experts_are_refused(recipe):
    spec = tiny_moe_spec()
    config = everywhere(spec, integers(4))
    assert "experts" in recipe.ruling(spec, config).reason


def test_a_foreign_layer_is_an_error(recipe, spec):
    with pytest.raises(ModelError):
        recipe.ruling(spec, CompressionConfig(layers={"model.layers.99.mlp.up_proj": integers(4)}))


def test_methods_that_a_tool_has_not_are_told(recipe, spec):
    config = everywhere(spec, integers(4, 32, symmetric=True).model_copy(update={"method": "weighted"}))
    (note,) = recipe.notes(spec, config)
    assert "'weighted'" in note
    assert str(len(spec.block_linears)) in note


@pytest.mark.parametrize("tool", ["modelopt", "gptqmodel", "auto-round"])
def test_tools_without_embeddings_refuse_them(tool, spec):
    config = CompressionConfig(layers={spec.embedding.name: find_choice("int8-channel")})
    assert "embedding" in find_recipe(tool).ruling(spec, config).reason


@pytest.mark.parametrize("tool", ["llm-compressor", "torchao"])
def test_a_tied_head_goes_with_its_embedding(tool, spec):
    config = CompressionConfig(layers={spec.embedding.name: find_choice("int8-channel")})
    recipe = find_recipe(tool)
    read = READERS[tool](recipe.text(spec, config), [linear.name for linear in spec.linears])
    assert read[spec.embedding.name] == read[spec.head.name] == [(8, None)]


def test_an_untied_head_has_a_format_of_its_own():
    spec = tiny_spec(tied=False)
    config = CompressionConfig(layers={spec.head.name: find_choice("int8-channel")})
    for tool in ("llm-compressor", "torchao", "modelopt", "auto-round"):
        read = READERS[tool](find_recipe(tool).text(spec, config), [linear.name for linear in spec.linears])
        assert read[spec.head.name] == [(8, None)]
        assert read.get(spec.embedding.name, [None]) == [None]


def test_modelopt_refuses_fused_linears_that_differ(spec):
    name = "model.layers.1.self_attn.k_proj"
    config = mixed(spec)
    apart = config.replaced(layers={**config.layers, name: find_choice("int8-channel")})
    verdict = find_recipe("modelopt").ruling(spec, apart)
    assert name in verdict.reason
    assert "share an input" in verdict.reason
    assert find_recipe("torchao").ruling(spec, apart)


def test_llm_compressor_prunes_before_it_rounds_and_gives_each_method_a_modifier(spec):
    pruned = Sparsity(fraction=0.5, pattern="2:4", criterion="wanda")
    names = [linear.name for linear in spec.block_linears]
    layers = {names[0]: integers(4, sparsity=pruned), names[1]: integers(8, method="gptq")}
    layers[spec.embedding.name] = find_choice("int8-channel")
    stage = yaml.safe_load(find_recipe("llm-compressor").text(spec, CompressionConfig(layers=layers)))
    groups = stage["default_stage"]
    assert list(groups) == ["embedding_modifiers", "pruning_0_modifiers", "quantization_modifiers"]
    wanda = groups["pruning_0_modifiers"]["WandaPruningModifier"]
    assert wanda == {"sparsity": 0.5, "mask_structure": "2:4", "targets": [names[0]]}
    modifiers = groups["quantization_modifiers"]
    assert modifiers["GPTQModifier"]["config_groups"]["group_0"]["targets"] == [names[1]]
    assert modifiers["QuantizationModifier"]["config_groups"]["group_0"]["targets"] == [names[0]]


def test_a_cache_of_fp8_is_said_by_those_that_have_it(spec):
    config = mixed(spec).replaced(kv=KVFormat(num_bits=8, number_type="float"))
    told = yaml.safe_load(find_recipe("llm-compressor").text(spec, config))
    rounding = told["default_stage"]["quantization_modifiers"]["QuantizationModifier"]
    assert rounding["kv_cache_scheme"]["type"] == "float"
    last = ast.literal_eval(find_recipe("modelopt").text(spec, config))["quant_cfg"][-1]
    assert last["quantizer_name"] == "*[kv]_bmm_quantizer"


def test_an_unknown_tool_is_an_error():
    with pytest.raises(UnknownNameError, match="auto-round"):
        find_recipe("auto_round")
