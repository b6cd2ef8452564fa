"""The settings of a search, part of the run file."""

from __future__ import annotations

from pydantic import Field, field_validator

from paretune.search.samplers import sampler_names
from paretune.spaces.errors import SpaceError, UnknownNameError
from paretune.spaces.limits import Limit, check_limits
from paretune.spaces.metrics import find_metric
from paretune.spaces.schema import Frozen


class SearchSettings(Frozen):
    """How to search. Tokens are of the search text; one evaluation is 16,384 tokens."""

    sampler: str = Field(
        "paretune", description="paretune, additive, annealing, greedy, lp, nsga2, nsga3, tpe, gp or random."
    )
    objectives: tuple[str, ...] = Field(
        ("kl", "weight_bytes"), description="Metrics to trade off: a quality first, then costs."
    )
    limits: tuple[str, ...] = Field((), description="E.g. memory<=6GiB, kl<=0.1, tpot<=20ms.")
    seed: int = Field(0, ge=0, description="Of everything random.")
    minutes: float | None = Field(None, ge=0, description="Bound on the search (minutes).")
    max_evaluations: float | None = Field(
        None, ge=0, description="Bound on what is read on the search text (units of 16,384 tokens)."
    )
    max_candidates: int | None = Field(None, ge=0, description="Bound on proposed candidates (count).")
    marginal_tokens: int = Field(1024, ge=1, description="Tokens that a marginal is read on.")
    baseline_tokens: int = Field(
        2048, ge=1, description="Tokens that uniform configurations and probes are read on first."
    )
    candidate_tokens: int = Field(
        8192,
        ge=1,
        description="Tokens that candidates are read on, and the best of what they are compared with.",
    )
    front_members: int = Field(12, ge=2, description="Members that are judged on the report text, at most.")

    @field_validator("sampler")
    @classmethod
    def _known(cls, sampler: str) -> str:
        if sampler not in sampler_names():
            raise UnknownNameError("sampler", sampler, sampler_names())
        return sampler

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        metrics = [find_metric(name) for name in names]
        full = tuple(metric.name for metric in metrics)
        if len(set(full)) < 2 or len(set(full)) != len(full):
            raise SpaceError(
                f"objectives {', '.join(names)}",
                "at least two different metrics are traded off",
                "E.g. kl and bytes",
            )
        if metrics[0].family != "quality" or any(metric.family == "quality" for metric in metrics[1:]):
            raise SpaceError(
                f"objectives {', '.join(names)}",
                "the first is a quality, the others are costs",
                "E.g. kl, tpot",
            )
        return full

    @field_validator("limits")
    @classmethod
    def _limits(cls, limits: tuple[str, ...]) -> tuple[str, ...]:
        parsed = tuple(Limit.parse(text) for text in limits)
        check_limits(parsed)
        return tuple(limit.text for limit in parsed)

    @property
    def parsed_limits(self) -> tuple[Limit, ...]:
        """The limits as values."""
        return tuple(Limit.parse(text) for text in self.limits)
