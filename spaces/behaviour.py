"""What a model may leave out while it runs: prompt tokens after a block, blocks of a token it is sure about.

Token pruning follows LazyLLM (Fu et al. 2024, arXiv:2407.14057) and FastV (Chen et al. 2024,
arXiv:2403.06764), early exit CALM (Schuster et al. 2022, arXiv:2207.07061). Neither changes a weight, and no
engine that serves models offers either: they run on request in our own generation loop, and nowhere else.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Frozen


class TokenPruning(Frozen):
    """Prompt tokens that end after one block; those that generation looks at most go on, at their positions.

    Attributes:
        after_block: index of the last block that sees every token of the prompt, counted in the candidate.
        kept_share: of the prompt's tokens that go on, above 0; 1 switches it off.
        first_tokens, last_tokens: ends of the prompt that always go on, and count as kept.
    """

    after_block: int
    kept_share: float
    first_tokens: int = 1
    last_tokens: int = 4

    @model_validator(mode="after")
    def _sensible(self) -> TokenPruning:
        _check_block("after_block", self.after_block)
        if not 0.0 < self.kept_share <= 1.0:
            raise ConfigurationError(
                f"kept_share {self.kept_share}", "must be above 0 and at most 1", "Use 1 to keep every token"
            )
        if self.first_tokens < 0 or self.last_tokens < 1:
            raise ConfigurationError(
                f"{self.first_tokens} first and {self.last_tokens} last tokens always kept",
                "the last token must go on, since it predicts the next one",
                "Use first_tokens of at least 0 and last_tokens of at least 1",
            )
        return self

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.kept_share < 1.0

    def kept(self, tokens: int) -> int:
        """How many of a prompt's tokens go on: the share, rounded up, or the ends where these are more."""
        # An ulp of a product such as 0.7 * 10 must not keep a token more than the share says.
        wanted = math.ceil(self.kept_share * tokens - 1e-9)
        return min(tokens, max(wanted, self.first_tokens + self.last_tokens))


class EarlyExit(Frozen):
    """Blocks that a token is spared once the model is sure of the next one; only while decoding.

    Attributes:
        from_block: index of the first block after which the model may stop, counted in the candidate.
        confidence: to be exceeded, strictly, 0 to 1; 1 switches it off.
        measure: of confidence. ``probability``: of the most likely token; ``entropy``: 1 less the entropy of
            the prediction over that of a uniform one.
    """

    from_block: int
    confidence: float
    measure: Literal["probability", "entropy"] = "probability"

    @model_validator(mode="after")
    def _sensible(self) -> EarlyExit:
        _check_block("from_block", self.from_block)
        if not 0.0 <= self.confidence <= 1.0:
            raise ConfigurationError(
                f"confidence {self.confidence}", "must be between 0 and 1", "Use 1 to run every block"
            )
        return self

    @property
    def active(self) -> bool:
        """Whether it changes anything: nothing is above 1."""
        return self.confidence < 1.0


class Behaviour(Frozen):
    """What a runtime leaves out.

    Attributes:
        tokens: of the prompt; ``None``: all go through.
        exit: of blocks while decoding; ``None``: all run.
    """

    tokens: TokenPruning | None = None
    exit: EarlyExit | None = None

    @property
    def active(self) -> bool:
        """Whether anything is left out."""
        return any(part is not None and part.active for part in (self.tokens, self.exit))


def _check_block(field: str, block: int) -> None:
    if block < 0:
        raise ConfigurationError(f"{field} {block}", "blocks are counted from 0", "Use 0 or more")
