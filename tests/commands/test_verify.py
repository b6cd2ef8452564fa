"""``paretune verify``: which engine is asked, and with which run an export is compared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from commands.verify import check_origin, loader, run_of
from engines import find_engine
from spaces.errors import EngineError, RunError, VerificationError


def test_only_an_engine_that_loads_an_export_is_asked():
    assert loader({"engine": "llama.cpp"}, None) == "llama.cpp"
    assert loader({"engine": "transformers"}, "torch-cpu") == "torch-cpu"
    assert {loader({"engine": name}, None) for name in ("vllm", "transformers")} == {"vllm", "transformers"}
    with pytest.raises(EngineError, match=r"does not load an export for llama\.cpp"):
        loader({"engine": "llama.cpp"}, "vllm")
    assert find_engine(loader({"engine": "llama.cpp"}, None)).name == "llama.cpp"


def test_an_export_is_compared_with_the_run_it_comes_from(tmp_path):
    bench = SimpleNamespace(hashes={"bank": "one"}, folder=tmp_path)
    check_origin(tmp_path, {"run": {"hashes": {"bank": "one"}}}, bench)
    with pytest.raises(VerificationError, match="another bank"):
        check_origin(tmp_path, {"run": {"hashes": {"bank": "two"}}}, bench)
    (tmp_path / "run.json").write_text("{}")
    assert run_of(tmp_path / "export" / "name") == tmp_path.resolve()
    with pytest.raises(RunError, match="--run"):
        run_of(tmp_path.parent)
