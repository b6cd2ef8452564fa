"""What a runtime left out, counted while it ran."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Observed:
    """Counts over every sequence since the last :meth:`reset`.

    Attributes:
        blocks: of the candidate.
        prompt_tokens, kept_tokens: that entered the first block, and the last one.
        decoded_tokens: that entered the first block one at a time.
        decoded_blocks: that these tokens ran in all.
    """

    blocks: int
    prompt_tokens: int = 0
    kept_tokens: int = 0
    decoded_tokens: int = 0
    decoded_blocks: int = 0

    def reset(self) -> None:
        """Count anew."""
        self.prompt_tokens = self.kept_tokens = self.decoded_tokens = self.decoded_blocks = 0

    @property
    def dropped_share(self) -> float:
        """Of prompt tokens, those that did not reach the last block; 0 without a prompt."""
        return 1 - self.kept_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def mean_blocks_run(self) -> float:
        """Blocks that a decoded token ran on average, the exit depth; all while nothing was decoded."""
        return self.decoded_blocks / self.decoded_tokens if self.decoded_tokens else float(self.blocks)

    @property
    def skipped_share(self) -> float:
        """Of the decoded tokens' blocks, those that were spared."""
        return 1 - self.mean_blocks_run / self.blocks
