"""A candidate's module graph told to leave something out: the forward pass of every block is wrapped."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from paretune.engines.behaviour.early_exit import ExitTaker
from paretune.engines.behaviour.observed import Observed
from paretune.engines.behaviour.ruling import behaviour_ruling
from paretune.engines.behaviour.token_pruning import TokenPruner
from paretune.spaces.behaviour import Behaviour
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.model import ModelSpec


def attach(model: Any, spec: ModelSpec, config: CompressionConfig, behaviour: Behaviour) -> Observed:
    """Make ``model`` behave so; returns the counts it will keep. What is switched off wraps nothing.

    Args:
        model: module graph of the candidate, already on its device; its blocks' ``forward`` are replaced.
        spec: of the dense model.
        config: of the candidate.
        behaviour: what to leave out.

    Raises:
        EngineError: the model is of another family, or there is nothing to leave out where asked.
    """
    verdict = behaviour_ruling(spec, config, behaviour)
    if not verdict:
        raise EngineError(
            f"leaving out tokens or blocks of {spec.family}", verdict.reason, "Run it without, or elsewhere"
        )
    blocks = model.get_submodule(spec.block_path)
    observed = Observed(len(blocks))
    if behaviour.active:
        conductor = _Conductor(model, spec, behaviour, observed)
        for index, block in enumerate(blocks):
            block.forward = partial(conductor.run, block, index, block.forward)
    return observed


class _Conductor:
    """Tells prompts from further tokens and hands each block to whoever runs it."""

    def __init__(self, model: Any, spec: ModelSpec, behaviour: Behaviour, observed: Observed) -> None:
        norm = model.get_submodule(f"{spec.block_path.rpartition('.')[0]}.norm")
        head = model.get_output_embeddings()

        def read(hidden: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(head(norm(hidden)))

        tokens, leave = behaviour.tokens, behaviour.exit
        self._observed = observed
        self._pruner = TokenPruner(tokens, observed) if tokens is not None and tokens.active else None
        self._exit = ExitTaker(leave, read, observed) if leave is not None and leave.active else None
        self._in_prompt = True

    def run(
        self, block: Any, index: int, forward: Any, hidden_states: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """In place of the block's forward pass."""
        if index == 0:
            self._in_prompt = options["past_key_values"].get_seq_length() == 0
            self._count(*hidden_states.shape[:2])
        if self._in_prompt:
            if self._pruner is not None:
                return self._pruner.prompt(block, index, forward, hidden_states, options)
            return torch.as_tensor(forward(hidden_states, **options))
        if self._pruner is not None:
            options = self._pruner.step_options(index, hidden_states, options)
        if self._exit is not None and hidden_states.shape[1] == 1:
            return self._exit.step(block, index, forward, hidden_states, options)
        self._observed.decoded_blocks += hidden_states.shape[0] * hidden_states.shape[1]
        return torch.as_tensor(forward(hidden_states, **options))

    def _count(self, batch: int, tokens: int) -> None:
        if self._in_prompt:
            self._observed.prompt_tokens += batch * tokens
            self._observed.kept_tokens += batch * tokens
        else:
            self._observed.decoded_tokens += batch * tokens
