"""Bits per byte: exact where it can be counted by hand, the same whatever the tokens are."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from paretune.evaluators.bits_per_byte import bits_per_byte, from_perplexity
from paretune.spaces.errors import TextError
from paretune.spaces.measurement import Measurement, Sample
from paretune.spaces.statistics import measure
from tests.models import tiny_tokenizer


def windows(count):
    return Sample(windows=tuple(map(str, range(count))))


def test_bits_over_bytes():
    found = bits_per_byte([8.0, 24.0], [4, 4], windows(2))
    assert found.value == 4.0
    assert found.per_window == (2.0, 6.0)
    assert found.stderr == pytest.approx(2.0)
    uneven = bits_per_byte([4.0, 12.0], [2, 6], windows(2))
    assert uneven.value == 2.0
    assert uneven.stderr == 0.0  # every byte costs the same, however they are dealt out
    skewed = bits_per_byte([2.0, 12.0], [2, 6], windows(2))
    assert skewed.value == pytest.approx(14 / 8)
    assert bits_per_byte([8.0], [4], windows(1)).stderr is None
    for bits, sizes in (([1.0], [0]), ([1.0, 2.0], [3])):
        with pytest.raises(TextError, match="bits per byte"):
            bits_per_byte(bits, sizes, windows(len(bits)))


def test_perplexity_of_windows_becomes_bits():
    perplexity = measure([math.log(4.0)] * 2, windows(2), estimator="exp_mean")
    found = from_perplexity(perplexity, 31, [31, 62])
    assert found.value == pytest.approx(2 * 2 * 31 / 93)
    assert from_perplexity(None, 31, [31, 62]) is None
    assert from_perplexity(Measurement(value=4.0), 31, [31, 62]) is None
    assert from_perplexity(perplexity, 31, [31]) is None


def test_windows_become_the_text_that_they_were_and_tokens_again():
    import torch

    from paretune.evaluators.window_texts import encode_text, predicted_bytes, tokenize_alike, window_texts

    tokenizer = tiny_tokenizer()
    text = "Zwölf Boxkämpfer jagen 7 mal"
    ids = tokenizer(text)["input_ids"]
    (found,) = window_texts(tokenizer, torch.tensor([ids]))
    assert found == text
    assert encode_text(tokenizer, found) == ids
    assert predicted_bytes(tokenizer, ids) == len(text.encode()) - 1
    cut = torch.tensor([tokenizer("ö")["input_ids"][1:] + tokenizer("ab")["input_ids"]])
    assert window_texts(tokenizer, cut) == ["ab"]  # half a character is no text
    marked = encode_text(tokenizer, "a<|endoftext|>b")
    assert marked == tokenizer("ab")["input_ids"]  # it has no token for the mark
    assert tokenize_alike(tokenizer, tiny_tokenizer(), [text])
    other = tiny_tokenizer()
    other.add_tokens(["jagen"])
    assert not tokenize_alike(tokenizer, other, [text])
    assert tokenize_alike(tokenizer, other, ["nothing of it"])


def test_a_model_that_guesses_evenly_pays_eight_bits_a_byte():
    import torch

    from paretune.evaluators.compared import read_bits

    def guesses(input_ids, use_cache):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 256))

    model = type("Model", (), {"__call__": staticmethod(guesses), "device": "cpu"})()
    found = read_bits(model, tiny_tokenizer(), ["some text", "more of it"], 32, windows(2))
    assert found.value == pytest.approx(8.0, rel=1e-6)
    assert found.n == 2
    with pytest.raises(TextError, match="2 to 4 at once"):
        read_bits(model, tiny_tokenizer(), ["some text"], 4, windows(1))


def test_padding_of_a_vocabulary_changes_nothing(bench):
    """A sibling with more rows than the dense model is compared over the tokens that both have."""
    import torch

    from paretune.compressors.loading import load_dense
    from paretune.compressors.windows import TokenWindows
    from paretune.evaluators.compared import Judge, read_dense
    from paretune.evaluators.window_texts import window_texts

    dense = load_dense(bench.folder, bench.spec)
    windows = TokenWindows.of(
        torch.randint(0, 128, (4, 16), generator=torch.Generator().manual_seed(0)), "report"
    )

    class Padded:
        device = "cpu"

        def __call__(self, input_ids, use_cache=False):
            logits = dense(input_ids=input_ids, use_cache=use_cache).logits
            return SimpleNamespace(logits=torch.nn.functional.pad(logits, (0, 8), value=3.0))

    rows = bench.spec.vocabulary
    teachers = read_dense(dense, windows, rows, {rows + 8, rows - 56})
    assert sorted(teachers) == [rows - 56, rows]
    judge = Judge(windows, bench.tokenizer, window_texts(bench.tokenizer, windows.ids), teachers, None)
    found = judge.beside_dense(Padded(), rows + 8)
    assert found["kl"].value < 1e-6
    assert found["top1_agreement"].value == 1.0
    loss = math.log(found["perplexity"].value)
    total = sum(judge.window_bytes)
    assert found["bits_per_byte"].value == pytest.approx(loss * 4 * 15 / math.log(2) / total)
    assert judge.on_tasks(dense, bench.tokenizer) == {}
