"""The words of a search, said once: for ``paretune.search``, ``plan`` and ``inspect``, and for their commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Any, TypedDict, TypeVar, get_type_hints

from paretune.spaces.target import Workload

Spelled = TypeVar("Spelled", bound=Callable[..., Any])


class SpaceWords(TypedDict, total=False):
    """Words for a space.

    Attributes:
        run_file: YAML or JSON; the words given here override it.
        revision: of a hub id.
        engine: torch-cpu, torch, transformers, vllm, llama.cpp, openvino or onnxruntime.
        device: by name, or ``auto`` for this machine.
        workload: ``batch=1,prompt=128,output=128`` (sequences, tokens, tokens).
        limits: such as ``memory<=6GiB``, ``kl<=0.1``, ``tpot<=20ms``.
        bits, embedding_bits: widths of linears, and of embedding and head.
        group_size: weights that share a scale; 0: one scale per channel.
        methods: quantizers: rtn, weighted, hqq, gptq, awq.
        formats: by name, besides the widths.
        rules: for layers that match a pattern, such as ``*.down_proj:bits=4,8``; the last match wins.
    """

    run_file: str | Path | None
    revision: str | None
    engine: str | None
    device: str | None
    workload: str | Workload | None
    limits: Sequence[str] | None
    bits: Sequence[int] | None
    embedding_bits: Sequence[int] | None
    group_size: int | None
    methods: Sequence[str] | None
    formats: Sequence[str] | None
    rules: Sequence[str | Mapping[str, Any]] | None


class SearchWords(SpaceWords, total=False):
    """Words for a search.

    Attributes:
        out: run folder; ``runs/MODEL`` if left out.
        text: split by document into the three below.
        calibration_text, search_text, report_text: for statistics, for scoring, for what is reported.
        windows: drawn from each text (count); 0: all that it has.
        window_tokens: of a window.
        tasks: folder of lm-eval tasks, which may run code of their own.
        task_names: all of the folder if left out; or names that lm-eval has.
        task_limit: items of each task (count).
        objectives: metrics to trade off, quality first.
        sampler: paretune, additive, nsga2, nsga3, tpe, gp or random.
        minutes: bound on the search alone; preparing, judging and exporting come on top. 30 where no bound is given.
        max_evaluations: bound on the search, in units of 16,384 tokens.
        seed: of everything random.
        export: write the recommended configuration and load it again.
        gguf: write it as GGUF too.
    """

    out: str | Path | None
    text: str | Path | None
    calibration_text: str | Path | None
    search_text: str | Path | None
    report_text: str | Path | None
    windows: int | None
    window_tokens: int | None
    tasks: str | Path | None
    task_names: Sequence[str] | None
    task_limit: int | None
    objectives: Sequence[str] | None
    sampler: str | None
    minutes: float | None
    max_evaluations: float | None
    seed: int | None
    export: bool | None
    gguf: bool | None


def spelled(
    words: type[SpaceWords], options: Mapping[str, Any] | None = None
) -> Callable[[Spelled], Spelled]:
    """Give a function that takes ``**words`` the signature that spells them out.

    Notebooks complete them then, and typer makes options of them.

    Args:
        words: that it takes, none of them required.
        options: annotations for typer, by word, in the order of its help; the types of the words, and their
            explanations in the function's docstring, if left out.
    """
    kinds = get_type_hints(words)

    def decorate(function: Spelled) -> Spelled:
        own = signature(function).parameters.values()
        hints = get_type_hints(function, include_extras=True) if options else {}
        shown = {name: kind for name, kind in (options or kinds).items() if name in kinds}
        parts = {
            kind: [p.replace(annotation=hints.get(p.name, p.annotation)) for p in own if p.kind == kind]
            for kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        }
        more = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in shown.items()
        ]
        parameters = [*parts[Parameter.POSITIONAL_OR_KEYWORD], *more, *parts[Parameter.KEYWORD_ONLY]]
        function.__signature__ = signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
        if options:
            function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        else:
            told = (function, *dict.fromkeys((SpaceWords, words)))
            function.__doc__ = "\n\n".join(cleandoc(part.__doc__ or "") for part in told)
        return function

    return decorate
