"""How far a served distribution is from its reference, where both name their likeliest tokens only.

The tokens that both name are compared one by one. Whatever else there is falls into buckets, and merging outcomes
never raises a Kullback-Leibler divergence, so that the result bounds the divergence over the whole vocabulary from
below. A token that the server does not name is known to be no likelier than the least that it names; without that
bound two lists with no token in common would look alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

Token = TypeVar("Token", int, str)

_LEAST_REST = 1e-12
"""A rest below it is rounding of what was summed."""


def divergence(reference: Mapping[Token, float], served: Mapping[Token, float]) -> float:
    """A lower bound of KL(reference || served) in nats, at least 0.

    Args:
        reference: log-probabilities of the likeliest tokens, in nats, normalised over the vocabulary.
        served: the same of the server, by the same names; not empty. Its list holds its likeliest tokens.
    """
    named = [token for token in reference if token in served]
    missing = math.fsum(math.exp(reference[token]) for token in reference if token not in served)
    total = math.fsum(math.exp(reference[token]) * (reference[token] - served[token]) for token in named)
    rest = max(_LEAST_REST, 1.0 - math.fsum(map(math.exp, reference.values())))
    elsewhere = max(_LEAST_REST, 1.0 - math.fsum(math.exp(served[token]) for token in named))
    if missing > 0.0:
        # Of all ways to split the server's mass between the missing tokens and the rest, the closest that can be.
        most = (len(reference) - len(named)) * math.exp(min(served.values()))
        share = max(_LEAST_REST / 2, min(elsewhere * missing / (missing + rest), most))
        total += missing * math.log(missing / share)
        elsewhere -= share
    total += rest * math.log(rest / elsewhere)
    return max(0.0, total)
