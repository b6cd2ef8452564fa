"""How memory is shared out where candidates are scored."""

from types import SimpleNamespace

import pytest
import torch

from paretune.compressors.loading import load_dense
from paretune.pipeline.memory import share_memory
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import RunError
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality
from tests.models import build_tiny

TOKENS = {"search": 4096, "report": 4096}


class OnGpu(SimpleNamespace):
    """A model as it would lie on a GPU."""

    def parameters(self):
        return iter(self.held)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny("llama", tmp_path_factory.mktemp("memory") / "model")
    spec = read_model(folder)
    return load_dense(folder, spec), spec, SearchSpace(spec, FakeLegality(), Restrictions(bits=(4, 8)))


def gpu(model, monkeypatch, free):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr("paretune.pipeline.memory.teacher_limit", lambda device: 1 << 30)
    return OnGpu(device=torch.device("cuda"), held=list(model.parameters()))


def test_on_a_cpu_expanded_weights_have_a_budget(tiny):
    whole, none = share_memory(*tiny, TOKENS, None), share_memory(*tiny, TOKENS, 0)
    assert (none.copies, none.packed, whole.packed) == (0, 0, 0)
    assert whole.copies > 0
    assert whole.total - none.total == whole.copies


def test_on_a_gpu_packed_entries_come_before_expanded_weights(tiny, monkeypatch):
    model, spec, space = tiny
    much = share_memory(gpu(model, monkeypatch, 1 << 40), spec, space, TOKENS, None)
    assert 0 < much.packed < much.copies
    tight = share_memory(
        gpu(model, monkeypatch, round((much.needed + much.packed) / 0.9) + 64), spec, space, TOKENS, None
    )
    assert tight.packed == much.packed
    assert tight.copies < 100
    asked = share_memory(gpu(model, monkeypatch, 1 << 40), spec, space, TOKENS, much.packed // 2)
    assert (asked.packed, asked.copies) == (much.packed // 2, 0)


def test_too_little_is_refused_with_what_is_needed(tiny, monkeypatch):
    model, spec, space = tiny
    with pytest.raises(RunError, match=r"needs .* of memory, and 1.07 GB are there"):
        share_memory(gpu(model, monkeypatch, 1 << 30), spec, space, TOKENS, None)
