"""KL on continuation positions: the prompt as a runtime takes it, then the true tokens one by one.

A whole-window comparison would not see what is left out: token pruning acts on a prompt, early exit on the
tokens after it. So both runtimes read the prompt, are fed the same continuation, and are compared where they
predict it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.compressors.comparison import Divergence
from paretune.compressors.observation import micro_batches
from paretune.compressors.teacher_logits import BYTES_LIMIT, full_store, top_store
from paretune.spaces.errors import TextError

if TYPE_CHECKING:
    from paretune.engines.runtime.torch_runtime import TorchRuntime

_TOKENS_AT_ONCE = 4096


def continuation_kl(
    runtime_dense: TorchRuntime,
    runtime_candidate: TorchRuntime,
    ids: torch.Tensor,
    prompt_tokens: int,
    new_tokens: int,
) -> Divergence:
    """KL(dense || candidate) at the ``new_tokens`` positions that predict what follows the prompt.

    Args:
        runtime_dense: what to compare with.
        runtime_candidate: what is compared; its counts are of this text afterwards.
        ids: int64 ``(sequences, at least prompt_tokens + new_tokens)``; the rest is not read.
        prompt_tokens: fed at once, at least 1.
        new_tokens: positions compared, at least 1.

    Returns:
        One window a sequence, ``kl_tokens`` ``(sequences, new_tokens)`` in nats; the loss is that of the
        candidate on the true continuation.

    Raises:
        TextError: the sequences are shorter.
        ConfigurationError: the candidate predicts NaN.
    """
    length = prompt_tokens + new_tokens
    if min(prompt_tokens, new_tokens) < 1 or ids.shape[1] < length:
        raise TextError(
            f"{prompt_tokens} tokens of prompt and {new_tokens} of continuation",
            f"need at least 1 of each, and sequences of {ids.shape[1]} to hold them",
            "Ask for fewer tokens, or give longer windows",
        )
    for runtime in (runtime_dense, runtime_candidate):
        runtime.observed.reset()
    kl, same, losses, mode = [], [], [], ""
    for batch in micro_batches(ids[:, :length], _TOKENS_AT_ONCE):
        wanted, found = (
            runtime.continuation_logits(batch, prompt_tokens).log_softmax(dim=-1).flatten(0, 1)
            for runtime in (runtime_dense, runtime_candidate)
        )
        full = wanted.numel() * 2 <= BYTES_LIMIT
        store = (full_store if full else top_store)(len(wanted), wanted.shape[1], BYTES_LIMIT)
        store.put(0, wanted)
        per_token, agreement = store.divergence(0, found)
        targets = batch[:, prompt_tokens:].reshape(-1, 1).to(found.device)
        kl.append(per_token.view(len(batch), -1))
        same.append(agreement.view(len(batch), -1).to(torch.float64).mean(dim=1))
        losses.append(-found.gather(-1, targets).to(torch.float64).view(len(batch), -1).mean(dim=1))
        mode = store.mode
    return Divergence.of(torch.cat(kl), torch.cat(same), torch.cat(losses), mode)
