"""Canaries are written into an export that stays whole, wherever the job is killed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from paretune.engines import canary
from paretune.engines.canary import CANARIES, add_canaries, discard_unlisted, read_canaries
from paretune.engines.manifest import MANIFEST, check_files
from paretune.engines.predictions import Predictions
from paretune.spaces.files import sha256_of_file, write_json
from paretune.spaces.schema import sealed

WINDOWS = torch.arange(64).view(2, 32)
TOKENIZER = SimpleNamespace(
    decode=lambda ids, **more: " ".join(map(str, ids)), encode=lambda text: list(map(int, text.split()))
)


class Engine:
    """Predicts something else every time, as a rebuilt engine may."""

    name = "fake"

    def __init__(self):
        self.calls = 0

    def version(self):
        return "1"

    def served_predictions(self, folder, ids):
        self.calls += 1
        seed = torch.Generator().manual_seed(self.calls)
        return Predictions.of_logits(torch.randn(*ids.shape, 50, generator=seed))


class KilledError(BaseException):
    pass


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    files = {"model.bin": sha256_of_file(folder / "model.bin")}
    write_json(folder / MANIFEST, sealed({"files": files}))
    return folder


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("there", [False, True], ids=["first", "again"])
def test_a_job_that_is_killed_leaves_an_export_that_can_be_used(export, monkeypatch, there, steps):
    engine, replace, done = Engine(), canary._replace, []
    if there:
        add_canaries(engine, export, WINDOWS, TOKENIZER, 3)

    def killed_after(file, values):
        if len(done) == steps:
            raise KilledError
        done.append(file.name)
        replace(file, values)

    with monkeypatch.context() as patched:
        patched.setattr(canary, "_replace", killed_after)
        try:
            add_canaries(engine, export, WINDOWS, TOKENIZER, 4)
        except KilledError:
            assert len(done) == steps
    discard_unlisted(export)
    check_files(export)
    add_canaries(engine, export, WINDOWS, TOKENIZER, 5)
    check_files(export)
    assert len(read_canaries(export).canaries) == 5
    assert sorted(path.name for path in export.iterdir()) == sorted([CANARIES, "model.bin", MANIFEST])
