"""Forms that a package beside ``transformers`` loads: what they have in common, and how modules are named to them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.checkpoint.legality import CheckpointLegality, row_ruling
from paretune.engines.engine import ExportCard
from paretune.engines.environments import Environment, find_environment, lacking, variable
from paretune.engines.forms.form import Form
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, kept_shape

if TYPE_CHECKING:
    import torch

    from paretune.compressors.assembly import Assembler
    from paretune.compressors.quantizers import QuantizedWeight
    from paretune.compressors.weight_provider import WeightProvider
    from paretune.spaces.containers import Container
    from paretune.spaces.formats import WeightFormat


class PackedForm(Form):
    """Linears are quantized, weights alone; what is not, stays as the model has it.

    Attributes:
        container: how bytes are counted (:mod:`paretune.spaces.form_bytes`).
        packages: that must be importable beside transformers; the first is the loader, whose environment is used.
        source: of the rules: packages and versions that were read and tried.
        takes_conv1d: whether the loader replaces GPT-2's ``Conv1D`` too.
        takes_head: whether the loader replaces a head that is not tied.
        inputs: why rounded inputs are refused.
    """

    container: Container
    packages: tuple[str, ...]
    source: str
    takes_conv1d: bool = False
    takes_head: bool = False
    inputs: str = "the form holds weights alone"

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """The same model in this container."""
        return spec.model_copy(update={"container": self.container})

    def available(self) -> Ruling:
        """Whether some interpreter has the packages; if not, how to install them."""
        try:
            self.environment()
        except EngineError as error:
            return illegal(f"{error.value} {error.rule}. {error.remedy}", self.packages[0])
        return LEGAL

    def ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """The pruned model, then every layer, then what the form wants of all of them together."""
        verdict = CheckpointLegality("transformers", "cpu").pruned(spec, config.pruned)
        if not verdict:
            return verdict
        chosen = [(x, config.choice(x.name)) for x in kept_linears(spec, config)]
        quantized = [(linear, choice) for linear, choice in chosen if not choice.weight.dense]
        for linear, choice in quantized:
            shape = kept_shape(spec, linear, config.pruned)
            verdict = self._place_ruling(linear, choice) and row_ruling(shape[1], choice)
            verdict = verdict and self.layer_ruling(choice, shape)
            if not verdict:
                return self.refused(f"{linear.name}: {verdict.reason}")
        if not quantized:
            return self.refused("nothing is quantized; the usual form writes a plain checkpoint of it")
        return self.joint_ruling(spec, quantized)

    @abstractmethod
    def layer_ruling(self, choice: LayerChoice, shape: tuple[int, int]) -> Ruling:
        """Whether codes of this choice fit, for a linear of ``(out_features, in_features)``."""

    def joint_ruling(self, spec: ModelSpec, quantized: list[tuple[Linear, LayerChoice]]) -> Ruling:
        """Whether these quantized layers fit into one checkpoint."""
        del spec, quantized
        return LEGAL

    def scale_ruling(self, spec: ModelSpec) -> Ruling:
        """Of forms that store scales in float16: those of a float32 model have no equals there."""
        if spec.dtype != "float32":
            return LEGAL
        return self.refused(
            "the model is float32 and so are its scales, which the form stores in float16; save the model in"
            " bfloat16 or float16 before it is searched"
        )

    @abstractmethod
    def pack(
        self, path: str, found: QuantizedWeight, weight: WeightFormat, dtype: str
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of one linear.

        Args:
            path: of the module.
            found: codes and scales.
            weight: their format.
            dtype: of the checkpoint, by name.
        """

    @abstractmethod
    def quantization(self, spec: ModelSpec, config: CompressionConfig) -> dict[str, Any]:
        """``quantization_config`` of ``config.json``."""

    def integer_ruling(self, weight: WeightFormat, groups: tuple[int, ...]) -> Ruling:
        """Of forms that pack integers: whether a format is one by these groups, or by rows."""
        if weight.number_type != "int" or weight.zero_point == "float" or weight.block_rows != 1:
            return self.refused(f"it packs integers by group or row, not {weight.name}")
        if weight.actorder != "none":
            return self.refused("no registered method reorders columns")
        if weight.group_size is not None and weight.group_size not in groups:
            return self.refused(f"groups of {weight.group_size} are not among {', '.join(map(str, groups))}")
        return LEGAL

    def refused(self, reason: str) -> Ruling:
        """A refusal with this form's source."""
        return illegal(reason, self.source)

    def write(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :func:`paretune.engines.checkpoint.writer.write_tensors`."""
        from paretune.engines.checkpoint.tensors import StoredTensors
        from paretune.engines.checkpoint.writer import bank_of, export_notes, write_tensors
        from paretune.engines.export_folder import ExportKind

        spec = weights.spec

        def pack(path: str, found: QuantizedWeight, weight: WeightFormat, *, unpacked: bool) -> Any:
            del unpacked
            return self.pack(path, found, weight, spec.dtype)

        kind = ExportKind(
            "transformers",
            (self.name,),
            ("torch", "transformers", "safetensors"),
            form=self.name,
            notes=(
                f"in the form {self.name}; loading it takes {', '.join(self.packages)}",
                *export_notes(config),
            ),
        )
        tensors = StoredTensors(spec, bank_of(weights), config, pack=pack)
        quantization = self.quantization(spec, config)
        return write_tensors(kind, self.stored(spec), tensors, quantization, config, folder, card)

    def environment(self) -> Environment:
        """The environment of the first package, if it has the others and transformers too."""
        first = self.packages[0]
        remedy = (
            f"Install {' and '.join(self.packages)} beside transformers here, or in an environment of their own that"
            f" {variable(first)} names"
        )
        found = find_environment(first)
        if found is None:
            raise EngineError(first, "is not installed", remedy)
        absent = lacking(found, ("transformers", *self.packages))
        if absent:
            raise EngineError(f"{found.python}", f"lacks {' and '.join(absent)}", remedy)
        return found

    def _place_ruling(self, linear: Linear, choice: LayerChoice) -> Ruling:
        """Whether the loader has a quantized module for what this linear is."""
        if linear.role == "embedding":
            return self.refused("an embedding is no linear and stays as the model has it")
        if linear.role.startswith("expert"):
            return self.refused("experts are one parameter and no linears that could be replaced")
        if linear.role == "head" and not self.takes_head:
            return self.refused("only linears inside the blocks are replaced; leave the head at 16 bits")
        if linear.transposed and not self.takes_conv1d:
            return self.refused("a Conv1D, which the loader does not replace, or cannot initialize then")
        if choice.activation is not None:
            return self.refused(f"inputs are rounded as {choice.activation.name}; {self.inputs}")
        return LEGAL


def quantized_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Paths of the linears that have codes, in the pruned model, in the order of the model."""
    from paretune.spaces.size import kept_name

    return tuple(
        kept_name(spec, config.pruned, linear.name)
        for linear in kept_linears(spec, config)
        if not config.choice(linear.name).weight.dense
    )


def dense_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Paths of everything else that may be a linear: layers that stay dense, a tied head, routers and projections."""
    from paretune.spaces.size import kept_name

    layers = [
        linear.name
        for linear in spec.linears
        if config.keeps_block(linear.block)
        and linear.role != "embedding"
        and not linear.role.startswith("expert")
        and config.choice(linear.name).weight.dense
    ]
    fixed = [
        tensor.name.removesuffix(".weight")
        for tensor in spec.fixed
        if len(tensor.shape) > 1 and tensor.name.endswith(".weight") and config.keeps_block(tensor.block)
    ]
    return tuple(kept_name(spec, config.pruned, name) for name in (*layers, *fixed))


def skip_patterns(left: Iterable[str], replaced: Iterable[str]) -> list[str]:
    """Names that ``transformers`` leaves alone, in words that reach no module that is to be replaced.

    It reads an entry as a regular expression that a name begins with, and as what a name ends with
    (``should_convert_module``, transformers 5.17): ``mlp.gate`` would leave ``mlp.gate_proj`` alone too. An entry that
    would is written as an expression of the whole name; the others stay plain, which other loaders understand.
    """
    names = tuple(replaced)
    return [
        f"{re.escape(name)}$" if any(x.startswith(name) or x.endswith(name) for x in names) else name
        for name in left
    ]
