"""The generation loop of ``torch`` and ``torch-cpu``: prefill, then one token at a time, greedily."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from paretune.engines.profiled_engine import Runtime, Timing
from paretune.engines.runtime.candidate_model import candidate_model
from paretune.engines.runtime.static_cache import static_cache
from paretune.engines.selection import Selection
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler


class TorchRuntime(Runtime):
    """See :class:`paretune.engines.engine.Runtime`.

    Args:
        assembler: of the model.
        config: of the candidate.
        selections: kernel of every kept layer.
        device: torch's name.
        dtype: of the dense computation.
    """

    def __init__(
        self,
        assembler: Assembler,
        config: CompressionConfig,
        selections: dict[str, Selection],
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.kernels = {layer: chosen.kernel for layer, chosen in selections.items()}
        self._spec = assembler.spec
        self._config = config
        self._scale_dtype = assembler.bank.scale_dtype
        model = candidate_model(assembler, config, selections)
        self._model = model.to(device=device, dtype=dtype)
        self._device = torch.device(device)

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runtime.logits`."""
        cache = self._cache(ids.shape[1])
        found = self._model(input_ids=ids.to(self._device), past_key_values=cache, use_cache=True)
        return torch.as_tensor(found.logits.to(torch.float32).cpu())

    @torch.inference_mode()
    def generate(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """See :meth:`Runtime.generate`."""
        self._check(ids.shape[1] + new_tokens)
        found, cache = [ids.to(self._device)], self._cache(ids.shape[1] + new_tokens)
        for _ in range(new_tokens):
            found.append(self._next(found[-1], cache))
        return torch.cat(found, dim=1).cpu()

    @torch.inference_mode()
    def time(self, workload: Workload, repetitions: int = 5) -> Timing:
        """See :meth:`Runtime.time`. The prompt is random: what tokens say does not change the time."""
        self._check(workload.context)
        generator = torch.Generator().manual_seed(0)
        shape = (workload.batch, workload.prompt_tokens)
        ids = torch.randint(self._spec.vocabulary, shape, generator=generator).to(self._device)
        # The first run allocates and warms up; it is long enough with a handful of tokens.
        self._timed(ids, min(workload.output_tokens, 8))
        runs = [self._timed(ids, workload.output_tokens) for _ in range(repetitions)]
        first, further = [run[0] for run in runs], [run[1] for run in runs]
        return Timing(
            ttft_s=statistics.median(first),
            tpot_s=statistics.median(further),
            ttft_spread_s=_spread(first),
            tpot_spread_s=_spread(further),
            repetitions=repetitions,
        )

    def _timed(self, ids: torch.Tensor, new_tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and of each after it (of the first, if there is no other)."""
        cache = self._cache(ids.shape[1] + new_tokens)
        self._wait()
        start = time.perf_counter()
        token = self._next(ids, cache)
        self._wait()
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            token = self._next(token, cache)
        self._wait()
        stop = time.perf_counter()
        return first - start, (stop - first) / (new_tokens - 1) if new_tokens > 1 else first - start

    def _next(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        """The most likely next token of every sequence, ``(sequences, 1)``."""
        return self._predict(ids, cache).argmax(dim=-1)

    def _predict(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits after the last of ``ids``, ``(sequences, 1, vocabulary)``."""
        found = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return torch.as_tensor(found.logits[:, -1:])

    def _cache(self, tokens: int) -> Any:
        return static_cache(self._spec, self._config, tokens, self._scale_dtype)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _check(self, tokens: int) -> None:
        if tokens > self._spec.context:
            raise EngineError(
                f"{tokens} tokens of prompt and answer",
                f"the model's context is {self._spec.context}",
                "Use a shorter workload",
            )


def _spread(values: list[float]) -> float:
    """Half the distance between the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2
