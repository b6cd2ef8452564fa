"""What a pipeline that uses a quantization tool already is handed: one file in the tool's own words.

A recipe carries the formats of a configuration, linear by linear and by exact name, and leaves the arithmetic to the
tool: codes are not those of the bank. Nothing of a tool is imported here; that its words are understood is what
``benchmarks/recipes.py`` tries with the tool itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.checking import check_configuration
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import LEGAL, Ruling, illegal, require
from paretune.spaces.model import Linear, ModelSpec


class Recipe(ABC):
    """A tool, and how to tell it what was searched.

    Attributes:
        name: of the tool, the same in every file.
        file_name: that its users give such a file.
        version: of the tool that the rules were tried with.
        methods: the tool's name for each of our methods that it has; what is not here is made by ``fallback``.
        fallback: what the tool does instead, in words.
    """

    name: str
    file_name: str
    version: str
    methods: Mapping[str, str]
    fallback: str

    def ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether the tool can express the formats of the candidate; the first refusal, with its reason.

        Raises:
            ParetuneError: the model cannot have this configuration, whatever the tool.
        """
        check_configuration(spec, config)
        verdict = self._whole_ruling(config)
        for layer, choice in config.layers.items():
            verdict = verdict and self._named_ruling(spec, spec.linear(layer), choice)
        return verdict

    def text(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """Content of the file; the same for equal arguments.

        Raises:
            EngineError: the tool cannot express the candidate.
        """
        require(
            self.ruling(spec, config),
            f"recipe for {self.name}",
            "Take another member of the front, or export it for an engine with `paretune export`",
        )
        return self.written(spec, config)

    def notes(self, spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
        """What the tool will do otherwise than the search did, for people."""
        del spec
        found = []
        for method in sorted({choice.method for choice in config.layers.values()} - {"none"}):
            layers = [name for name, choice in config.layers.items() if choice.method == method]
            if method not in self.methods:
                found.append(
                    f"{self.name} has no method {method!r} in a recipe: {len(layers)} layers from {layers[0]} on are"
                    f" made by {self.fallback}"
                )
        return tuple(found)

    @abstractmethod
    def layer_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """Whether the tool has this choice for this linear."""

    @abstractmethod
    def written(self, spec: ModelSpec, config: CompressionConfig) -> str:
        """The file of a candidate that :meth:`ruling` accepts."""

    def kv_ruling(self, kv: KVFormat) -> Ruling:
        """Whether the tool stores the cache in this format; most recipes have no word for it."""
        if kv == KVFormat():
            return LEGAL
        return self.refused(
            f"its recipe has no place for a cache of {kv.name}, which is an option of the server: leave the cache out"
            " (`paretune recipe --weights-only`) and give the server that option"
        )

    def refused(self, reason: str) -> Ruling:
        """A refusal with this tool and version as its source."""
        return illegal(reason, f"{self.name} {self.version}")

    def _whole_ruling(self, config: CompressionConfig) -> Ruling:
        if not config.pruned.whole:
            return self.refused(
                f"the candidate is a smaller model ({config.pruned.name}) and a recipe is for the dense one; cut"
                " it first, by exporting the pruned model alone"
            )
        if not config.layers:
            return self.refused("every linear stays as it is, so there is nothing for a tool to do")
        return self.kv_ruling(config.kv)

    def _named_ruling(self, spec: ModelSpec, linear: Linear, choice: LayerChoice) -> Ruling:
        if linear.role.startswith("expert"):
            return self.refused(
                f"{linear.name} holds the experts of a block in one tensor, and a recipe names modules"
            )
        if linear.role == "embedding" and choice.activation is not None:
            return self.refused(f"{linear.name} has tokens as inputs, which are not rounded")
        verdict = self.layer_ruling(linear, choice)
        if verdict and spec.tied and linear.role == "embedding":
            verdict = self.layer_ruling(spec.head, choice)
        return verdict or verdict.model_copy(update={"reason": f"{linear.name}: {verdict.reason}"})


def modules(spec: ModelSpec, layer: str) -> tuple[str, ...]:
    """Module paths that carry a layer's format: a tied head goes with its embedding."""
    tied = spec.tied and layer == spec.embedding.name
    return (layer, spec.head.name) if tied else (layer,)


def dense_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Linears, embedding and head that keep their weights as they are, in the order of the model."""
    quantized = {
        name
        for layer, choice in config.layers.items()
        if not choice.weight.dense
        for name in modules(spec, layer)
    }
    whole = (linear for linear in spec.linears if not linear.role.startswith("expert"))
    return tuple(linear.name for linear in whole if linear.name not in quantized)


def packed_integers(linear: Linear, choice: LayerChoice, widths: Sequence[int], bundle: int) -> str:
    """Why a container of packed integers does not hold a choice; empty if it does.

    Args:
        linear: whose weights they are.
        choice: what is asked for.
        widths: that are packed, in bits.
        bundle: what must divide both sides of a weight, in weights.
    """
    weight = choice.weight
    integers = weight.number_type == "int" and weight.zero_point != "float" and weight.block_rows == 1
    refusals = (
        (linear.transposed, "a Conv1D, which recipes were not tried with"),
        (choice.sparsity is not None, "it quantizes and does not prune"),
        (choice.activation is not None, "its recipes round weights alone, and the candidate rounds inputs"),
        (not integers, f"it packs integers by group or row, not {weight.name}"),
        (
            weight.num_bits not in widths,
            f"it packs {', '.join(map(str, widths))} bits, not {weight.num_bits}",
        ),
        (
            bool(linear.in_features % bundle or linear.out_features % bundle),
            f"it packs sides that {bundle} divides, not {linear.out_features} by {linear.in_features}",
        ),
    )
    return next((reason for refused, reason in refusals if refused), "")
