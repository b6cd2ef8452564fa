"""``paretune recipe``: what is written, where, and what is refused."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from paretune.commands.main import main
from paretune.reports.reading import read_front
from tests.models import build_tiny
from tests.reports.synthetic import write_run

SIZES = {"blocks": 6, "hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffn": 512, "vocabulary": 768}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that a synthetic run is about, random."""
    return build_tiny(
        "llama", tmp_path_factory.mktemp("model"), dtype="bfloat16", num_hidden_layers=SIZES["blocks"],
        hidden_size=SIZES["hidden"], num_attention_heads=SIZES["heads"], head_dim=SIZES["head_dim"],
        intermediate_size=SIZES["ffn"], vocab_size=SIZES["vocabulary"], tie_word_embeddings=True,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Path:
    return write_run(tmp_path / "run", source=str(model), **SIZES)


def whole(run: Path, kv: int) -> str:
    """A member without a cut, with a cache of this width."""
    return next(
        member.name
        for member in read_front(run).members
        if member.config.pruned.whole and member.config.kv.num_bits == kv and member.config.layers
    )


def test_a_recipe_is_written_beside_the_run(run, capsys):
    name = whole(run, 16)
    assert main(["recipe", str(run), "--tool", "llm-compressor", "--name", name]) == 0
    printed = capsys.readouterr()
    path = run / "recipes" / "llm-compressor" / name / "recipe.yaml"
    assert str(path) in printed.out
    assert "no method 'hqq'" in printed.err
    assert set(yaml.safe_load(path.read_text())) == {"default_stage"}
    assert [path.name for path in path.parent.iterdir()] == ["recipe.yaml"]


def test_a_recipe_goes_where_it_is_told(run, tmp_path, capsys):
    name, out = whole(run, 16), tmp_path / "mine" / "formats.json"
    assert main(["recipe", str(run), "--tool", "torchao", "--name", name, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["recipe", str(run), "--tool", "torchao", "--name", name, "--out", "-"]) == 0
    assert capsys.readouterr().out == out.read_text()


def test_a_place_that_cannot_be_written_to_is_refused(run, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ["recipe", str(run), "--tool", "torchao", "--name", whole(run, 16), "--out"]
    for out in (tmp_path / "file" / "formats.json", tmp_path / "file" / "deeper" / "formats.json", tmp_path):
        assert main([*arguments, str(out)]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_the_cache_is_left_out_only_when_asked(run, capsys):
    arguments = ["recipe", str(run), "--tool", "torchao", "--name", whole(run, 8), "--out", "-"]
    assert main(arguments) == 2
    assert "--weights-only" in capsys.readouterr().err
    assert main([*arguments, "--weights-only"]) == 0
    printed = capsys.readouterr()
    assert "cache of kv8" in printed.err
    assert ast.literal_eval(printed.out.replace("null", "None"))["_type"] == "FqnToConfig"


def test_what_a_tool_cannot_express_is_refused_and_leaves_nothing(run, capsys):
    pruned = next(member.name for member in read_front(run).members if not member.config.pruned.whole)
    assert main(["recipe", str(run), "--tool", "gptqmodel", "--name", pruned]) == 2
    assert "smaller model" in capsys.readouterr().err
    assert not (run / "recipes").exists()


@pytest.mark.parametrize(
    ("option", "value", "about"), [("--tool", "awq", "tool 'awq'"), ("--name", "nobody", "nobody")]
)
def test_unknown_names_are_refused(run, capsys, option, value, about):
    given = {"--tool": "torchao", option: value}
    assert main(["recipe", str(run), *(word for pair in given.items() for word in pair)]) == 2
    assert about in capsys.readouterr().err
