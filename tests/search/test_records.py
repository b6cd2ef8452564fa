"""The records of a run: small, and nothing in them is believed that no search has written."""

from __future__ import annotations

import json
import os
import random
import signal
import threading

import pytest

from paretune.search.record_lines import CONFIGURATIONS, sealed
from paretune.search.records import FILE, RecordFile
from paretune.search.settings import SearchSettings
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import RunError
from paretune.spaces.formats import integer_format
from paretune.spaces.interrupts import uninterrupted
from paretune.spaces.measurement import EVALUATION_TOKENS, Fidelity, Measurement, Record
from paretune.spaces.statistics import numbered
from tests.search.fake_study import make_study

WINDOWS = Fidelity(windows=8, window_tokens=256)
COSTS = ("average_bits", "weight_bytes", "memory_bytes", "ttft_s_predicted", "tpot_s_predicted")


def made(index, config, **changes):
    noise = random.Random(index)
    measured = {
        name: Measurement(
            value=noise.random(), unit="nat", stderr=noise.random(), n=8, by="quality/1",
            per_window=tuple(noise.random() for _ in range(8)), sample=numbered(8),
        )
        for name in ("kl", "kl_p99", "top1_agreement", "perplexity")
    } | {name: Measurement(value=1e9 / 3, unit="B", by="size") for name in COSTS}  # fmt: skip
    values = {
        "index": index, "digest": config.digest, "name": f"p{index:03d}", "config": config, "sampler": "paretune",
        "trial": index, "versions": "paretune/1 quality/1", "fidelity": WINDOWS, "tokens": WINDOWS.tokens,
        "evaluations": WINDOWS.tokens / EVALUATION_TOKENS, "seconds": 0.5, "measurements": measured,
        "violations": {"weight_bytes<=4GiB": -1.5},
    }  # fmt: skip
    return Record.model_validate({**values, **changes})


def mixed(number, layers=224):
    """A configuration of a model of 32 blocks in which every layer has a format of its own."""
    noise = random.Random(number)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    choices = [
        LayerChoice(weight=integer_format(bits, 128), method=method)
        for bits in (2, 3, 4, 6, 8)
        for method in ("rtn", "hqq", "gptq")
    ]
    return CompressionConfig(
        layers={
            f"model.layers.{i // 7}.self_attn.{names[i % 7]}": noise.choice(choices) for i in range(layers)
        }
    )


@pytest.fixture
def folder(tmp_path):
    """Three records of two configurations."""
    records = RecordFile(tmp_path)
    records.append(made(0, CompressionConfig()))
    records.append(made(1, mixed(1)))
    longer = Fidelity(windows=16, window_tokens=256)
    kl = {"kl": Measurement(value=0.5, n=16, per_window=(0.5,) * 16, sample=numbered(16))}
    costs = {name: Measurement(value=1e9 / 3, unit="B", by="size") for name in COSTS}
    records.append(made(2, mixed(1), trial=None, fidelity=longer, measurements=kl | costs))
    return tmp_path


def test_what_is_read_is_what_was_written(folder):
    first, second, third = RecordFile(folder)
    assert first == made(0, CompressionConfig())
    assert second == made(1, mixed(1))
    assert third.config == mixed(1)
    assert len((folder / CONFIGURATIONS).read_text().splitlines()) == 2


def test_a_candidate_of_224_groups_takes_less_than_3_kilobytes(folder):
    records = RecordFile(folder)
    before = sum((folder / name).stat().st_size for name in (FILE, CONFIGURATIONS))
    for index in range(3, 13):
        records.append(made(index, mixed(index)))
    after = sum((folder / name).stat().st_size for name in (FILE, CONFIGURATIONS))
    assert (after - before) / 10 < 3000


@pytest.mark.parametrize("name", [FILE, CONFIGURATIONS])
def test_a_flipped_bit_is_refused(folder, name):
    """Anywhere; only the last line may be taken for torn, where its end is what was flipped."""
    path, noise = folder / name, random.Random(0)
    content = path.read_bytes()
    for _ in range(200):
        place, bit = noise.randrange(len(content)), noise.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        if name == FILE and place == len(content) - 1:
            assert len(RecordFile(folder)) == 2
            continue
        with pytest.raises(RunError) as refused:
            RecordFile(folder)
        assert refused.value.remedy


@pytest.mark.parametrize(
    ("line", "changes", "rule"),
    [
        (0, {"digest": "0" * 64}, "points to a configuration"),
        (1, {"index": 0}, "has index 0"),
        (1, {"measurements": {"kl": {"value": -5.0}}}, "has kl -5.0"),
        (1, {"measurements": {"top1_agreement": {"value": 1.5}}}, "has top1_agreement 1.5"),
        (1, {"measurements": {"tpot_s_predicted": {"value": -1.0}}}, "has tpot_s_predicted"),
        (1, {"measurements": {"kl": {"value": 1.0, "per_window": [1.0]}}}, "not a record of this version"),
        (1, {"measurements": {"kl": {"value": 1.0, "stderr": -1.0}}}, "standard error"),
        (2, {"measurements": {"weight_bytes": {"value": 7.0}}}, "an earlier line of the same candidate"),
        (2, {"fidelity": {"text": "search", "windows": 8, "window_tokens": 256}}, "once more"),
        (1, {"tokens": -1}, "pays for -1"),
        (1, {"tokens": 1 << 40}, "pays for"),
        (1, {"evaluations": 0.0}, "evaluations"),
        (1, {"seconds": -1.0}, "took"),
        (1, {"colour": "red"}, "not a record of this version"),
    ],
)
def test_a_record_that_cannot_be_is_refused_though_its_checksum_is_right(folder, line, changes, rule):
    path = folder / FILE
    lines = path.read_text().splitlines()
    values = json.loads(lines[line])
    del values["check"]
    lines[line] = sealed(values | changes)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=rule):
        RecordFile(folder)


@pytest.mark.parametrize(
    "order", [(1, 2), (0, 2), (0, 0, 1, 2), (1, 0, 2), (2,)], ids=["first", "one", "twice", "swapped", "half"]
)
def test_lines_that_are_lost_doubled_or_moved_are_refused(folder, order):
    path = folder / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[i] for i in order))
    with pytest.raises(RunError, match="has index"):
        RecordFile(folder)


def test_another_width_under_the_same_digest_is_refused(folder):
    path = folder / CONFIGURATIONS
    lines = path.read_text().splitlines()
    values = json.loads(lines[1])
    del values["check"]
    values["chosen"][0] = 1 - values["chosen"][0]
    path.write_text("\n".join([lines[0], sealed(values)]) + "\n")
    with pytest.raises(RunError, match="names another configuration"):
        RecordFile(folder)


def test_records_of_other_versions_are_not_taken_for_ones_of_now(folder):
    assert len(RecordFile(folder, "paretune/1 quality/1")) == 3
    with pytest.raises(RunError, match="was measured by paretune/1 quality/1, this is paretune/1 quality/2"):
        RecordFile(folder, "paretune/1 quality/2")


def test_an_evaluator_of_another_version_goes_on_with_no_records_of_the_old(tmp_path, monkeypatch):
    make_study(tmp_path, SearchSettings(max_candidates=1)).run()
    monkeypatch.setattr("tests.search.fake_study.FakeQuality.version", "2")
    with pytest.raises(RunError, match="fake/2"):
        make_study(tmp_path, SearchSettings(max_candidates=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step(number):
    before, steps = signal.getsignal(number), []

    def ended(got, frame):
        raise KeyboardInterrupt

    def step():
        with uninterrupted():
            os.kill(os.getpid(), number)
            steps.append("file")
            steps.append("memory")

    signal.signal(number, ended)
    try:
        with pytest.raises(KeyboardInterrupt):
            step()
        assert steps == ["file", "memory"]
        assert signal.getsignal(number) is ended
    finally:
        signal.signal(number, before)


def test_there_is_nothing_to_hold_back_in_another_thread():
    found = []

    def work():
        with uninterrupted():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_windows_are_written_with_the_first_record_of_a_fidelity(folder):
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert ["sample" in line for line in lines] == [True, False, True]
    first, second, _ = RecordFile(folder)
    assert second.measurements["kl"].sample == first.measurements["kl"].sample == numbered(8)
