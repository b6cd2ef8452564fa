"""Building a bank takes no more memory than two blocks, whatever the embedding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import ctypes, re, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from paretune.compressors.bank import Bank, offered_entries
from paretune.compressors.loading import load_dense
from paretune.compressors.windows import TokenWindows
from paretune.spaces.architectures import read_model
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality

folder = Path(sys.argv[1])
spec = read_model(folder)
model = load_dense(folder, spec)
windows = TokenWindows.of(torch.arange(64).view(2, 32), "calibration")
bank = Bank.open(folder / "bank", folder, model, spec, "hash", windows)
space = SearchSpace(spec, FakeLegality(), Restrictions(bits=(3, 8), embedding_bits=(8,), methods=("rtn",)))
bank._make([next(offered_entries(spec, space))])  # imports and thread pools are no part of the question

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

ctypes.CDLL(None).malloc_trim(0)
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
bank.build(space)
done = True
watcher.join()
print(peak - before, sum(4 * x.weights for x in spec.linears if x.block == 0), 4 * spec.embedding.weights)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_peak_of_a_build(tmp_path):
    """In the arithmetic's float32; the embedding is larger than the limit, so it cannot be held either."""
    from tests.models import build_tiny

    folder = build_tiny(
        "llama",
        tmp_path / "model",
        dtype="bfloat16",
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=2,
        vocab_size=8192,
        tie_word_embeddings=True,
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    peak, block, embedding = map(int, found.stdout.split())
    assert embedding > 2 * block
    assert 0 < peak <= 2 * block
