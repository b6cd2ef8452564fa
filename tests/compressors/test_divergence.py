"""KL and its kin against their definitions, in every way of keeping the teacher."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from paretune.compressors.comparison import Divergence
from paretune.compressors.divergence import Teacher
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import BrokenCandidateError, ModelError, TextError
from paretune.spaces.statistics import difference

VOCABULARY, WINDOWS, TOKENS = 96, 6, 40


class Table:
    """A model whose logits for a token are a row of a table."""

    def __init__(self, seed=0, vocabulary=VOCABULARY, noise_of=None, noise=0.0):
        generator = torch.Generator().manual_seed(seed)
        if noise_of is None:
            self.table = 3 * torch.randn(vocabulary, vocabulary, generator=generator)
        else:
            size = noise_of.table.shape
            self.table = noise_of.table + noise * torch.randn(size, generator=generator)
        self.device = torch.device("cpu")
        self.read = 0

    def get_output_embeddings(self):
        return SimpleNamespace(weight=self.table)

    def __call__(self, input_ids, use_cache):
        self.read += input_ids.numel()
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.fixture
def windows():
    generator = torch.Generator().manual_seed(1)
    return TokenWindows.of(torch.randint(0, VOCABULARY, (WINDOWS, TOKENS), generator=generator), "search")


def by_definition(dense, candidate, ids):
    p, q = (torch.log_softmax(model.table[ids].double(), dim=-1) for model in (dense, candidate))
    kl = (p.exp() * (p - q)).sum(dim=-1)
    loss = -q[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1).mean(dim=1)
    same = (p.argmax(dim=-1) == q.argmax(dim=-1)).double().mean(dim=1)
    return kl.numpy(), same.numpy(), loss.numpy()


@pytest.mark.parametrize("noise", [0.01, 0.3, 3.0])
def test_against_the_definition(windows, noise):
    dense = Table()
    candidate = Table(seed=5, noise_of=dense, noise=noise)
    found = Teacher(dense, windows).compare(candidate)
    kl, same, loss = by_definition(dense, candidate, windows.ids)
    assert found.mode == "full"
    np.testing.assert_allclose(found.kl_tokens, kl, rtol=2e-3, atol=3e-7)
    np.testing.assert_allclose(found.kl, kl.mean(axis=1), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found.agreement, same)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
    assert found.measurements()["perplexity"].value == pytest.approx(math.exp(loss.mean()), rel=1e-6)
    assert found.measurements()["kl_p99"].value == pytest.approx(np.percentile(kl, 99), rel=2e-3)


def test_the_dense_model_is_at_zero_from_itself(windows):
    dense = Table()
    found = Teacher(dense, windows).compare(dense)
    assert found.kl_tokens.max() == 0.0
    assert found.agreement.min() == 1.0


def test_half_precision_keeps_the_noise_floor_low(windows):
    """The limit decides: full at 2 bytes a number, so in float16 when float32 does not fit."""
    dense = Table()
    teacher = Teacher(dense, windows, limit_bytes=WINDOWS * TOKENS * VOCABULARY * 2)
    assert teacher.mode == "full"
    found = teacher.compare(dense)
    assert found.kl.mean() < 1e-6
    assert found.agreement.min() == 1.0
    candidate = Table(seed=5, noise_of=dense, noise=0.3)
    kl = by_definition(dense, candidate, windows.ids)[0]
    np.testing.assert_allclose(teacher.compare(candidate).kl.mean(), kl.mean(), rtol=2e-3)


def test_most_likely_tokens_and_a_bucket_bound_the_divergence_from_below():
    vocabulary = 500
    dense = Table(vocabulary=vocabulary)
    candidate = Table(seed=5, noise_of=dense, noise=0.5)
    windows = TokenWindows.of(torch.arange(400).view(4, 100), "search")
    full = Teacher(dense, windows)
    top = Teacher(dense, windows, limit_bytes=400 * vocabulary * 2 - 1)
    assert (full.mode, top.mode) == ("full", "top-64")
    exact, bound = full.compare(candidate), top.compare(candidate)
    assert (bound.kl_tokens <= exact.kl_tokens + 1e-6).all()
    assert bound.kl.mean() > 0.8 * exact.kl.mean()
    assert top.compare(dense).kl.max() < 1e-6
    np.testing.assert_array_equal(bound.agreement, exact.agreement)
    np.testing.assert_array_equal(bound.loss, exact.loss)


def test_rungs_are_nested_prefixes_that_pay_only_new_windows(windows):
    dense = Table()
    candidate = Table(seed=5, noise_of=dense, noise=0.3)
    teacher = Teacher(dense, windows)
    first = teacher.compare(candidate, windows=2)
    assert candidate.read == 2 * TOKENS
    joined = first.joined(teacher.compare(candidate, windows=WINDOWS, start=2))
    assert candidate.read == WINDOWS * TOKENS
    whole = teacher.compare(candidate)
    np.testing.assert_array_equal(joined.kl_tokens, whole.kl_tokens)
    assert joined.measurements() == whole.measurements()
    assert whole.first(2).measurements() == first.measurements()


def test_measurements_have_errors_clustered_by_window(windows):
    dense = Table()
    found = Teacher(dense, windows).compare(Table(seed=5, noise_of=dense, noise=0.3)).measurements(by="kl/1")
    assert set(found) == {"kl", "kl_p99", "top1_agreement", "perplexity"}
    kl = found["kl"]
    assert kl.n == WINDOWS
    assert kl.by == "kl/1"
    assert kl.value == pytest.approx(np.mean(kl.per_window))
    assert kl.stderr == pytest.approx(np.std(kl.per_window, ddof=1) / math.sqrt(WINDOWS))
    assert found["perplexity"].stderr > 0


def test_a_single_window_has_no_error(windows):
    dense = Table()
    found = Teacher(dense, windows).compare(dense, windows=1)
    assert found.measurements()["kl"].stderr is None
    assert found.mean_kl.stderr is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_candidate_whose_predictions_are_not_finite_has_no_quality(windows, value):
    dense, broken = Table(), Table()
    broken.table = dense.table.clone()
    broken.table[3, 7] = value
    count = int((windows.ids == 3).sum())
    with pytest.raises(BrokenCandidateError, match=f"at {count} of {WINDOWS * TOKENS} tokens"):
        Teacher(dense, windows).compare(broken)
    with pytest.raises(ModelError, match=f"dense model on the search text: are not finite at {count} of"):
        Teacher(broken, windows)


def test_readings_know_their_windows_and_documents(windows):
    """Errors are clustered by the documents of the windows, and a rung is paired with a longer one."""
    known = TokenWindows.of(windows.ids, "search", range(WINDOWS))
    dense = Table()
    candidate = Table(seed=5, noise_of=dense, noise=0.3)
    teacher = Teacher(dense, known)
    long, short = teacher.compare(candidate), teacher.compare(candidate, windows=4)
    assert long.measurements()["kl"].clustered_by == "document"
    assert short.measurements()["kl"].clustered_by == "window"
    assert long.first(4).sample == short.sample
    for name, whole in long.measurements().items():
        gap = difference(whole, short.measurements()[name])
        assert (gap.n, gap.paired) == (4, True)
        assert abs(gap.value) <= (1e-12 if name != "kl_p99" else 0.05 * whole.value)


def test_windows_that_do_not_exist_are_refused(windows):
    teacher = Teacher(Table(), windows)
    for options in ({"windows": 7}, {"windows": 2, "start": 2}, {"windows": 2, "start": -1}):
        with pytest.raises(TextError, match="it has 6"):
            teacher.compare(Table(), **options)
    with pytest.raises(ModelError, match="embedding has 50 rows"):
        Teacher(Table(vocabulary=50), windows)


def test_the_tail_is_of_all_tokens_together():
    kl = torch.zeros(2, 100)
    kl[0, :2] = 8.0
    found = Divergence.of(kl, torch.ones(2), torch.zeros(2), "full")
    assert found.measurements()["kl_p99"].value == pytest.approx(np.percentile(kl.numpy(), 99))
    assert found.kl.tolist() == pytest.approx([0.16, 0.0])


def test_the_head_of_a_half_precision_model_is_multiplied_in_float32(windows):
    """Logits in bfloat16 are steps of 1/16 at 8: below that noise no candidate could be told from another."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes)).to(
        torch.bfloat16
    )
    with torch.inference_mode():
        model.lm_head.weight.normal_(0.0, 2.0)
        hidden = model.model(input_ids=windows.ids).last_hidden_state.float()
        rows = SimpleNamespace(weight=model.lm_head.weight)
        exact = SimpleNamespace(device=model.device, get_output_embeddings=lambda: rows)
        exact_logits = hidden @ model.lm_head.weight.float().T

        class Exact(SimpleNamespace):
            def __call__(self, input_ids, use_cache):
                return SimpleNamespace(logits=exact_logits[: len(input_ids)])

        rounded = model(input_ids=windows.ids).logits
        assert rounded.dtype == torch.bfloat16
        coarse = torch.nn.functional.kl_div(
            rounded.float().log_softmax(-1), exact_logits.log_softmax(-1), log_target=True, reduction="none"
        )
        found = Teacher(Exact(**vars(exact)), windows).compare(model)
    assert coarse.sum(-1).mean() > 1e-5
    assert found.kl.mean() < 1e-7
    assert not model.lm_head._forward_hooks
