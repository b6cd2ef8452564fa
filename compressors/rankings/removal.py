"""``removal``: how far the model without a part is from the dense one, in KL on the calibration text.

Removal measured and not estimated: whatever later blocks make up for is counted, which magnitudes cannot see. What it
costs is a pass a part, so only the first windows are read.
"""

from __future__ import annotations

import torch

from paretune.compressors.divergence import Teacher
from paretune.compressors.rankings.ranking import Ranking, Scene
from paretune.compressors.rankings.removal_pass import TOO_MANY, score_removals


class Removal(Ranking):
    """Mean KL a token, in nats, of the dense model and the model without the part."""

    name = "removal"
    refusals = {"channels": TOO_MANY, "width": TOO_MANY}  # noqa: RUF012 -- never changed
    most_windows = 16

    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """Of every group of heads and every block."""
        teacher = Teacher(scene.model, scene.windows)
        return score_removals(
            scene.model, scene.spec, lambda: float(teacher.compare(scene.model).kl_tokens.mean())
        )
