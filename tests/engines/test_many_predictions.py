"""What several exports predict: one that is refused does not take the others along."""

from __future__ import annotations

from pathlib import Path

import torch

from paretune.engines.transformers_engine import Transformers
from paretune.spaces.errors import EngineError


def test_a_refused_export_stands_in_the_place_of_its_predictions(tmp_path):
    class Choosy(Transformers):
        def predictions(self, folder, ids):
            if folder.name == "refused":
                raise EngineError(str(folder), "is refused", "Take another")
            return folder.name

    first, second, third = Choosy().many_predictions(
        [Path("a"), Path("refused"), Path("b")], torch.zeros(1, 1)
    )
    assert (first, third) == ("a", "b")
    assert isinstance(second, EngineError)
