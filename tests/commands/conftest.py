"""A tiny model, a text, and a folder of a small run, made once."""

from __future__ import annotations

import json

import pytest

from tests.commands.small_runs import RULE, small_run
from tests.models import build_tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = build_tiny(
        "llama", tmp_path_factory.mktemp("cli") / "model", dtype="bfloat16", tie_word_embeddings=True
    )
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["eos_token"] = (
        tokenizer.get("eos_token")
        or json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].popitem()[0]
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = [
        "".join(f"Line {i} of document {n} says that {i * n} is {i} times {n}.\n" for i in range(40))
        for n in range(12)
    ]
    path.write_text("<|endoftext|>".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run(model, text, tmp_path_factory):
    """A folder of a small run."""
    folder = tmp_path_factory.mktemp("small") / "run"
    found = small_run(model, text, folder, *RULE)
    assert found.returncode == 0, found.stderr[-2000:]
    return folder
