"""The categoricals of a search space: what each fused group, the cache and the pruned model may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import UNTOUCHED, LayerChoice, Sparsity
from paretune.spaces.configuration import WHOLE, PrunedShape
from paretune.spaces.errors import SpaceError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.legality import FusedGroup, Legality, Ruling
from paretune.spaces.methods import closure_ruling, needs_zero_point
from paretune.spaces.model import ModelSpec, PrunedKind
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import GroupRule, Restrictions
from paretune.spaces.pruned_sizes import LABELS, full_count, pruned_ladders

ParameterKind = Literal["layer", "kv", "blocks", "kv_heads", "ffn_channels", "hidden"]


@dataclass(frozen=True)
class Parameter:
    """One categorical.

    Attributes:
        name: the group's name, or ``kv``, ``pruned.blocks``, ``pruned.kv_heads``, ``pruned.ffn_channels``,
            ``pruned.hidden``.
        kind: what the choices are.
        choices: :class:`LayerChoice`, :class:`KVFormat`, or kept counts (``None``: everything).
        group: for ``layer`` parameters.
    """

    name: str
    kind: ParameterKind
    choices: tuple[LayerChoice | KVFormat | int | None, ...]
    group: FusedGroup | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the choices, in their order; ``whole`` for a count that keeps everything."""
        return tuple("whole" if c is None else str(c) if isinstance(c, int) else c.name for c in self.choices)

    @cached_property
    def _positions(self) -> dict[LayerChoice | KVFormat | int | None, int]:
        return {choice: i for i, choice in enumerate(self.choices)}

    def position(self, choice: LayerChoice | KVFormat | int | None) -> int | None:
        """Index of ``choice``; ``None`` if it is not in the space."""
        for position, known in enumerate(self.choices):
            if known is choice:  # decoding hands these very objects on
                return position
        return self._positions.get(choice)

    def widest(self) -> int:
        """Index of the choice nearest to the dense model."""
        if self.kind != "layer":
            return 0
        bits = [
            c.weight.num_bits - (0.5 if c.sparsity else 0) for c in self.choices if isinstance(c, LayerChoice)
        ]
        return bits.index(max(bits))

    def find(self, bits: int, kind: str) -> int | None:
        """Index of the choice without zeros of this width (and kind, below 16); ``None`` if absent."""
        for k, choice in enumerate(self.choices):
            if isinstance(choice, LayerChoice) and choice.sparsity is None:
                if bits == 16 and choice == UNTOUCHED:
                    return k
                if choice.weight.num_bits == bits and choice.kind == kind:
                    return k
        return None


_FINE_BITS = 4
"""Widest codes that are offered in finer groups than the usual ones: scales of groups of 32 cost 0.375 bits a weight
more than those of 128, and above this width the next width does more for less."""


def _worth_it(weight: WeightFormat, usual: int | None) -> bool:
    """Whether another group size than the usual one may save bytes or errors that another width does not."""
    size = weight.group_size
    finer = size is not None and (usual is None or size < usual)
    return not finer or weight.num_bits <= _FINE_BITS


class ParameterBuilder:
    """Builds the parameters of a space; what is refused is kept with its reason in :attr:`refused`.

    Args:
        spec: the model.
        legality: of the engine on the device.
        restrictions: what the user allows.
        kept_blocks: which blocks a pruned model of so many keeps.
    """

    def __init__(
        self,
        spec: ModelSpec,
        legality: Legality,
        restrictions: Restrictions,
        kept_blocks: Callable[[int], tuple[int, ...]],
    ) -> None:
        self.spec = spec
        self.legality = legality
        self.restrictions = restrictions
        self.kept_blocks = kept_blocks
        self.refused: dict[str, str] = {}

    def layer(self, group: FusedGroup, rule: GroupRule) -> Parameter:
        """The parameter of one group and what it may be.

        Raises:
            SpaceError: nothing that is allowed is legal.
        """
        legal = self._legal_choices(group, rule)
        if not legal:
            reasons = {why: None for what, why in self.refused.items() if what.startswith(f"{group.name}: ")}
            raise SpaceError(
                f"group {group.name}",
                f"no allowed format is legal for {self.legality.engine} ({'; '.join(reasons)})",
                "Allow more widths (16 is always legal) or another group size",
            )
        return Parameter(group.name, "layer", legal, group)

    def _legal_choices(self, group: FusedGroup, rule: GroupRule) -> tuple[LayerChoice, ...]:
        """What is allowed and legal; of several group sizes the first that is legal goes with all methods and zeros."""
        found: list[LayerChoice] = []
        usual: dict[tuple[int, str, Sparsity | None], int | None] = {}
        for choice in self._candidates(rule):
            key = (choice.weight.num_bits, choice.method, choice.sparsity)
            plain = choice.sparsity is None and choice.method == rule.methods[0]
            if key in usual and not (plain and _worth_it(choice.weight, usual[key])):
                continue
            if self._note(f"{group.name}: {choice.name}", self._legal(group, choice)):
                found.append(choice)
                usual.setdefault(key, choice.weight.group_size)
        named = self._named(group, rule.formats)
        if rule.formats and all(choice.weight.num_bits >= 8 for choice in named):
            named += self._named(group, self.restrictions.fallback_formats)
        return tuple(dict.fromkeys(found + named))

    def _named(self, group: FusedGroup, names: tuple[str, ...]) -> list[LayerChoice]:
        """Formats that were named and are legal."""
        choices = map(find_choice, names)
        return [x for x in choices if self._note(f"{group.name}: {x.name}", self._legal(group, x))]

    def _legal(self, group: FusedGroup, choice: LayerChoice) -> Ruling:
        verdict = closure_ruling(choice, WHOLE)
        return self.legality.choice(self.spec, group, choice, WHOLE) if verdict else verdict

    def cache(self) -> Parameter:
        """The parameter of the key-value cache.

        Raises:
            SpaceError: no allowed width is legal.
        """
        asked = [KVFormat.named(word) for word in self.restrictions.kv_bits]
        legal = tuple(kv for kv in asked if self._note(f"kv: {kv.name}", self.legality.kv(self.spec, kv)))
        if not legal:
            raise SpaceError(
                f"key-value cache of {', '.join(map(str, self.restrictions.kv_bits))} bits",
                f"is refused by {self.legality.engine}: {self.refused[f'kv: {asked[0].name}']}",
                "Allow 16 bits in kv_bits",
            )
        return Parameter("kv", "kv", legal)

    def pruned_sizes(self) -> tuple[Parameter, ...]:
        """The parameters of the pruned size: how many blocks, key-value heads, FFN and hidden channels are kept.

        Raises:
            SpaceError: a size that the user names cannot be had.
        """
        ladders = pruned_ladders(self.spec, self.restrictions)
        return tuple(self._pruned(kind, counts) for kind, counts in ladders.items())

    def _pruned(self, kind: PrunedKind, counts: tuple[int, ...]) -> Parameter:
        reason = self.spec.why_uncuttable(kind)
        if reason is not None:
            self.refused[f"pruned.{kind}"] = reason
        legal: list[int | None] = [None]
        for count in counts:
            value = self.kept_blocks(count) if kind == "blocks" else count
            pruned = PrunedShape.model_validate({kind: value})
            name = f"pruned.{kind}={count}"
            if self._note(name, self.legality.pruned(self.spec, pruned)):
                legal.append(count)
            elif getattr(self.restrictions, kind):
                raise SpaceError(
                    f"{count} {LABELS[kind]}",
                    f"is refused by {self.legality.engine}: {self.refused[name]}",
                    f"Name other counts below {full_count(self.spec, kind)}, or none",
                )
        return Parameter(f"pruned.{kind}", kind, tuple(legal))

    def _candidates(self, rule: GroupRule) -> list[LayerChoice]:
        """Every allowed width by every method and group size; zeros go with the first method alone."""
        found: list[LayerChoice] = []
        for share in rule.sparsity:
            sparsity = self._sparsity(share)
            for width in rule.bits:
                if width == 16:
                    found.append(LayerChoice(sparsity=sparsity))
                    continue
                for method in rule.methods if sparsity is None else rule.methods[:1]:
                    # Only where a method makes a zero point, an asymmetric container is needed.
                    symmetric = not needs_zero_point(method)
                    found += [
                        LayerChoice(
                            weight=integer_format(width, size, symmetric=symmetric),
                            sparsity=sparsity,
                            method=method,
                        )
                        for size in rule.group_sizes
                    ]
        return found

    def _sparsity(self, share: float) -> Sparsity | None:
        if share == 0.0:
            return None
        return Sparsity(
            fraction=share,
            pattern=self.restrictions.sparsity_pattern,
            criterion=self.restrictions.sparsity_criterion,
        )

    def _note(self, what: str, ruling: Ruling) -> bool:
        if not ruling:
            self.refused[what] = ruling.reason
        return bool(ruling)
