"""What is chosen for one layer: number format, sparsity and the method that applies them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.formats import DENSE, WeightFormat
from paretune.spaces.schema import Frozen

Pattern = Literal["unstructured", "2:4", "4:8"]


class Sparsity(Frozen):
    """Which share of a layer's weights is zero.

    Zeros are stored like any other weight unless the engine proves otherwise: sparsity alone saves no bytes.

    Attributes:
        fraction: share of zeros, in (0, 1); exactly 0.5 for an N:M pattern.
        criterion: registered name of the score that decides which weights go (``magnitude``, ``wanda``).
    """

    fraction: float
    pattern: Pattern = "unstructured"
    criterion: str = "wanda"

    @model_validator(mode="after")
    def _consistent(self) -> Sparsity:
        if not (0.0 < self.fraction < 1.0 and math.isfinite(self.fraction)):
            raise ConfigurationError(
                f"sparsity {self.fraction}",
                "must lie between 0 and 1",
                "Leave it out for a layer without zeros",
            )
        if self.pattern != "unstructured" and self.fraction != 0.5:
            raise ConfigurationError(
                f"sparsity {self.fraction} in pattern {self.pattern}",
                "an N:M pattern here is half zeros",
                "Use 0.5",
            )
        return self

    @property
    def name(self) -> str:
        """``s50`` or ``s50-2:4``."""
        percent = f"s{self.fraction * 100:g}"
        if float(percent[1:]) / 100 != self.fraction:  # names are keys: no two fractions may share one
            percent = f"s{self.fraction * 100!r}"
        return percent if self.pattern == "unstructured" else f"{percent}-{self.pattern}"


class LayerChoice(Frozen):
    """Everything that is chosen for one linear, embedding or head.

    Attributes:
        weight: format of the stored weights.
        activation: rounding of the layer's input; ``None`` leaves it alone.
        sparsity: ``None`` prunes nothing.
        method: registered quantizer (``rtn``, ``hqq``); ``none`` exactly when the weights stay dense.
    """

    weight: WeightFormat = DENSE
    activation: ActivationFormat | None = None
    sparsity: Sparsity | None = None
    method: str = "none"

    @model_validator(mode="after")
    def _consistent(self) -> LayerChoice:
        if self.weight.dense != (self.method == "none"):
            raise ConfigurationError(
                f"method {self.method!r} with weights of {self.weight.name}",
                "dense weights have the method 'none' and quantized weights have a quantizer",
                "Name a quantizer such as 'rtn', or leave both out",
            )
        if self.sparsity is not None and self.weight.zero_point == "float":
            raise ConfigurationError(
                f"zeros under weights of {self.weight.name}",
                "a float zero point is no code, so zeros would not stay zeros",
                "Use an integer zero point, or none",
            )
        return self

    @property
    def untouched(self) -> bool:
        """Whether the layer stays exactly as the dense model has it."""
        # Cheapest test first: this is asked of every layer of every candidate.
        return (
            self.weight.dense and self.activation is None and self.sparsity is None and self.weight == DENSE
        )

    @property
    def kind(self) -> str:
        """What besides the width tells uniform configurations apart: the method; the format too unless plain."""
        if self.weight.number_type == "int" and self.activation is None:
            return self.method
        inputs = "" if self.activation is None else f"+{self.activation.name}"
        return f"{self.weight.name}/{self.method}{inputs}"

    @property
    def name(self) -> str:
        """E.g. ``16``, ``int4-g128/rtn``, ``int4-g128/rtn+s50``."""
        parts = self.weight.name if self.weight.dense else f"{self.weight.name}/{self.method}"
        if self.activation is not None:
            parts += f"+{self.activation.name}"
        return parts if self.sparsity is None else f"{parts}+{self.sparsity.name}"


UNTOUCHED = LayerChoice()
