"""lm-eval tasks from a folder, offline: multiple choice and generation, errors, refusals, per-item scores."""

import json

import pytest

from paretune.evaluators.task_loading import load_tasks
from paretune.evaluators.tasks import TaskEvaluator, TaskScorer, TaskSettings
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import UnknownNameError
from paretune.spaces.measurement import Fidelity
from tests.evaluators.contract import check_evaluator

CHOOSE = """
task: tiny_choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GENERATE = """
task: tiny_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
FILTERED = (
    GENERATE.replace("tiny_generate", "tiny_filtered").replace("max_gen_toks: 4", "max_gen_toks: 8")
    + """
filter_list:
  - name: nothing
    filter: [{{function: regex, regex_pattern: "(no text has this)", fallback: "[invalid]"}}, {{function: take_first}}]
  - name: right
    filter: [{{function: regex, regex_pattern: "(no text has this)", fallback: " a"}}, {{function: take_first}}]
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tasks")
    rows = [
        {"prompt": f"item {i} =", "choices": [" a", " b"], "gold": i % 2, "answer": " a"} for i in range(12)
    ]
    data = place / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "choose.yaml").write_text(CHOOSE.format(data=data))
    (place / "generate.yaml").write_text(GENERATE.format(data=data))
    return place


@pytest.fixture(scope="module")
def scorer(folder, bench):
    return TaskScorer(bench.tokenizer, TaskSettings(folder=folder, limit=8, batch_size=4))


def test_contract(scorer, bench):
    evaluator = TaskEvaluator(bench.assembler, scorer)
    assert set(evaluator.metrics) == {"task.tiny_choose", "task.tiny_generate"}
    check_evaluator(evaluator, bench.spec, Fidelity(windows=1, window_tokens=16))


def test_scores_have_items_and_errors(scorer, bench):
    scores = scorer.score(bench.assembler.apply(DENSE_CONFIG))
    choose = scores["tiny_choose"]
    assert len(choose.items) == 8
    assert choose.value == pytest.approx(sum(choose.items) / 8)
    expected = (choose.value * (1 - choose.value) / 7) ** 0.5
    assert choose.stderr == pytest.approx(expected, abs=1e-9)
    assert scorer.main_metrics == {"tiny_choose": "acc", "tiny_generate": "exact_match"}


def test_of_several_filters_one_stands_for_the_task(bench, folder, tmp_path):
    """As gsm8k has a strict and a flexible one: items of both together would count every document twice."""
    (tmp_path / "filtered.yaml").write_text(FILTERED.format(data=folder / "items.jsonl"))
    scorer = TaskScorer(bench.tokenizer, TaskSettings(folder=tmp_path, limit=6, batch_size=4))
    score = scorer.score(bench.assembler.apply(DENSE_CONFIG))["tiny_filtered"]
    assert score.items == (0.0,) * 6
    assert score.value == 0.0


def test_the_gold_column_decides(folder, bench, tmp_path):
    """Flipping every gold index turns the accuracy around: the score is read from the data."""
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    flipped = tmp_path / "flipped.jsonl"
    flipped.write_text("".join(json.dumps({**row, "gold": 1 - row["gold"]}) + "\n" for row in rows))
    (tmp_path / "choose.yaml").write_text(CHOOSE.format(data=flipped))
    model = bench.assembler.apply(DENSE_CONFIG)
    first = TaskScorer(bench.tokenizer, TaskSettings(("tiny_choose",), folder)).score(model)["tiny_choose"]
    second = TaskScorer(bench.tokenizer, TaskSettings(("tiny_choose",), tmp_path)).score(model)["tiny_choose"]
    assert first.value + second.value == pytest.approx(1.0)


def test_an_unknown_task_is_refused_with_the_known_ones(folder):
    with pytest.raises(UnknownNameError, match="tiny_choose"):
        load_tasks(["tiny_chose"], folder)
