"""Rankings of what a pruned model may lack, by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from paretune.compressors.rankings.activation import Activation
from paretune.compressors.rankings.entropy import Entropy
from paretune.compressors.rankings.ranking import Kind, Ranking, Scene
from paretune.compressors.rankings.removal import Removal
from paretune.compressors.rankings.taylor import Taylor
from paretune.spaces.errors import UnknownNameError

RANKINGS: dict[str, Ranking] = {
    ranking.name: ranking
    for ranking in (
        Activation(),
        Entropy(),
        Removal(),
        Taylor(),
    )
}


def find_ranking(name: str) -> Ranking:
    """The ranking called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in RANKINGS:
        raise UnknownNameError("ranking", name, RANKINGS)
    return RANKINGS[name]


__all__ = ["RANKINGS", "Kind", "Ranking", "Scene", "find_ranking"]
