"""lm-eval tasks from a folder, offline: multiple choice and generation, errors, refusals, per-item scores."""

import json
import random

import pytest

from paretune.evaluators.quality import QualityEvaluator
from paretune.evaluators.task_loading import load_tasks
from paretune.evaluators.tasks import FEWEST_ITEMS, TaskEvaluator, TaskScorer, TaskSettings
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import TaskError, UnknownNameError
from paretune.spaces.measurement import Fidelity
from paretune.spaces.statistics import compare_items
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
        {"prompt": f"item {i} =", "choices": [" a", " b"], "gold": i % 2, "answer": " a"} for i in range(40)
    ]
    data = place / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "choose.yaml").write_text(CHOOSE.format(data=data))
    (place / "generate.yaml").write_text(GENERATE.format(data=data))
    return place


@pytest.fixture(scope="module")
def scorer(folder, bench):
    return TaskScorer(bench.tokenizer, TaskSettings(folder=folder, limit=8, batch_size=4))


@pytest.fixture
def evaluator(bench, many):
    quality = QualityEvaluator(bench.assembler, bench.teachers)
    return TaskEvaluator(quality, bench.assembler, many, ["tiny_choose"], {"search": 8, "report": 6})


@pytest.fixture(scope="module")
def many(folder, bench):
    """With enough items of each task to search on."""
    return TaskScorer(bench.tokenizer, TaskSettings(folder=folder, limit=40, batch_size=8))


def test_contract(evaluator, bench):
    assert set(evaluator.metrics) == {*QualityEvaluator.metrics, "task.tiny_choose"}
    check_evaluator(evaluator, bench.spec, Fidelity(windows=1, window_tokens=32))


def test_items_that_choose_do_not_report(evaluator, bench):
    """And a shorter reading is a prefix of a longer one, as with windows."""

    def items(text, windows):
        found = evaluator.evaluate(DENSE_CONFIG, Fidelity(text=text, windows=windows, window_tokens=32))
        return found["task.tiny_choose"].sample.windows

    whole = items("search", 8)
    assert len(whole) == len(set(whole)) == 20
    assert items("search", 4) == whole[:10]
    assert items("search", 1) == whole[:FEWEST_ITEMS]
    assert not set(whole) & set(items("report", 6))


def test_a_task_that_a_search_cannot_choose_by_is_refused(scorer):
    with pytest.raises(UnknownNameError, match="tiny_chose"):
        scorer.check_searchable(["tiny_chose"])
    with pytest.raises(TaskError, match="with 8 items"):
        scorer.check_searchable(["tiny_choose"])


def test_scores_have_items_and_errors(scorer, bench):
    scores = scorer.score(bench.assembler.apply(DENSE_CONFIG))
    choose = scores["tiny_choose"]
    assert choose.n == len(choose.per_window) == len(set(choose.sample.windows)) == 8
    assert choose.clustered_by == "item"
    assert choose.by == "lm-eval acc"
    assert choose.value == pytest.approx(sum(choose.per_window) / 8)
    expected = (choose.value * (1 - choose.value) / 7) ** 0.5
    assert choose.stderr == pytest.approx(expected, abs=1e-9)
    assert scorer.main_metrics == {"tiny_choose": "acc", "tiny_generate": "exact_match"}


def test_of_several_filters_one_stands_for_the_task(bench, folder, tmp_path):
    """As gsm8k has a strict and a flexible one: items of both together would count every document twice."""
    (tmp_path / "filtered.yaml").write_text(FILTERED.format(data=folder / "items.jsonl"))
    scorer = TaskScorer(bench.tokenizer, TaskSettings(folder=tmp_path, limit=6, batch_size=4))
    score = scorer.score(bench.assembler.apply(DENSE_CONFIG))["tiny_filtered"]
    assert score.per_window == (0.0,) * 6
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


FEW_SHOTS = (
    CHOOSE.replace("tiny_choose", "tiny_shots")
    + """
fewshot_split: test
num_fewshot: 3
"""
)
NORMED = CHOOSE.replace("tiny_choose", "tiny_normed").replace(
    "metric_list: [{{", "metric_list: [{{metric: acc_norm, aggregation: mean, higher_is_better: true}}, {{"
)
PERPLEXITY = """
task: tiny_perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{prompt}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


def test_few_shot_scores_repeat(folder, bench, tmp_path):
    """The same examples stand before an item every time, so a model ties with itself and two can be paired."""
    (tmp_path / "shots.yaml").write_text(FEW_SHOTS.format(data=folder / "items.jsonl"))
    model = bench.assembler.apply(DENSE_CONFIG)
    scorer = TaskScorer(bench.tokenizer, TaskSettings(folder=tmp_path, batch_size=4))
    state = random.getstate()
    first = scorer.score(model)["tiny_shots"]
    assert random.getstate() == state
    random.seed(99)
    again = scorer.score(model)["tiny_shots"]
    other = TaskScorer(bench.tokenizer, TaskSettings(folder=tmp_path, batch_size=4)).score(model)[
        "tiny_shots"
    ]
    assert first == again == other
    test = compare_items(first, again)
    assert (test.only_first, test.only_second, test.p_value) == (0, 0, 1.0)


def test_the_normed_accuracy_stands_for_a_task_that_reports_it(folder, bench, tmp_path):
    (tmp_path / "normed.yaml").write_text(NORMED.format(data=folder / "items.jsonl"))
    scorer = TaskScorer(bench.tokenizer, TaskSettings(folder=tmp_path, limit=4))
    assert scorer.main_metrics == {"tiny_normed": "acc_norm"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            PERPLEXITY,
            "task tiny_perplexity: has no metric that is a mean .*word_perplexity by weighted_perplexity",
        ),
        (CHOOSE.replace("metric: acc, aggregation: mean", "metric: f1, aggregation: f1"), "f1 by f1_score"),
    ],
)
def test_metrics_that_are_no_mean_over_items_are_refused_by_name(folder, bench, tmp_path, content, told):
    (tmp_path / "task.yaml").write_text(content.format(data=folder / "items.jsonl"))
    with pytest.raises(TaskError, match=told):
        TaskScorer(bench.tokenizer, TaskSettings(folder=tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"task: [", b"", b"- 1", b"\xff\xfe\x00", b"include: nothere.yaml", b"task: 5", b"dataset_path: json",
        b"d: 2026-13-01", b"[" * 3000, b"task: tiny_choose\n", b"a: *b",
    ],
)  # fmt: skip
def test_a_task_file_that_would_be_passed_over_is_named(folder, tmp_path, content):
    (tmp_path / "choose.yaml").write_text((folder / "choose.yaml").read_text())
    (tmp_path / "zz.yaml").write_bytes(content)
    with pytest.raises(TaskError, match=r"zz\.yaml"):
        load_tasks([], tmp_path)


def test_files_that_others_include_are_no_tasks(folder, tmp_path):
    text = (folder / "choose.yaml").read_text()
    (tmp_path / "base.yaml").write_text(text.replace("task: tiny_choose\n", ""))
    (tmp_path / "task.yaml").write_text("include: base.yaml\ntask: tiny_choose\n")
    assert set(load_tasks([], tmp_path)) == {"tiny_choose"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dataset_path: json", "nothing: here"),
        ("output_type: multiple_choice", "output_type: guess"),
        ('doc_to_text: "{{prompt}}"', "doc_to_text: !function nowhere.text"),
    ],
)
def test_a_task_that_cannot_be_loaded_is_named(folder, tmp_path, old, new):
    text = (folder / "choose.yaml").read_text()
    assert old in text
    (tmp_path / "choose.yaml").write_text(text.replace(old, new))
    with pytest.raises(TaskError, match="task tiny_choose: cannot be loaded"):
        load_tasks([], tmp_path)


def test_a_folder_without_tasks_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TaskError, match="task folder"):
            load_tasks([], folder)
    (tmp_path / "task.yml").write_text("task: some")
    with pytest.raises(TaskError, match=r"lm-eval reads \.yaml"):
        load_tasks([], tmp_path)
