"""The run file: defaults, overrides, refusals, the published schema."""

from pathlib import Path

import pytest

from paretune.pipeline.run_file import merge, read_run_file, schema_text, validate_run
from paretune.spaces.errors import ParetuneError, RunError

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_schema_is_the_code_s():
    assert (ROOT / "docs" / "run-file.schema.json").read_text(encoding="utf-8") == schema_text()


def test_an_unknown_key_is_named_with_its_place():
    with pytest.raises(RunError, match=r"space\.bitz") as error:
        validate_run({"model": "m", "space": {"bitz": [4]}}, "run.yaml")
    assert "run.yaml" in str(error.value)


def test_a_missing_model_is_named():
    with pytest.raises(RunError, match="model"):
        validate_run({}, "run.yaml")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"search": {"sampler": "nsga22"}}, "nsga2"),
        ({"search": {"objectives": ["kl", "speed"]}}, "speed"),
        ({"search": {"objectives": ["weight_bytes", "kl"]}}, "quality"),
        ({"search": {"limits": ["memory<=6GiB", "memory>=7GiB"]}}, "no value meets both"),
        ({"search": {"limits": ["memory<=6parsec"]}}, "parsec"),
        ({"search": {"minutes": -1}}, "minutes"),
        ({"space": {"bits": [7]}}, "7"),
        ({"workload": {"batch": 0}}, "batch"),
    ],
)
def test_bad_values_are_refused_by_name(values, expected):
    with pytest.raises(ParetuneError, match=expected):
        validate_run({"model": "m", **values}, "run.yaml")


def test_options_override_the_file_leaf_by_leaf():
    base = {"model": "a", "search": {"seed": 3, "minutes": 5}}
    merged = merge(base, {"search": {"seed": 4}})
    assert merged == {"model": "a", "search": {"seed": 4, "minutes": 5}}


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("- 1\n")
    with pytest.raises(RunError, match="mapping"):
        read_run_file(path)
    with pytest.raises(RunError, match="cannot be read"):
        read_run_file(tmp_path / "absent.yaml")


def test_the_example_of_the_documentation_is_valid():
    import yaml

    text = (ROOT / "docs" / "run-file.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert validate_run(yaml.safe_load(example), "docs/run-file.md").search.limits == (
        "memory<=6GiB",
        "kl<=0.1",
    )
