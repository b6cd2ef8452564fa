"""Models and tokenizers from a local folder, as searching needs them: evaluation mode, frozen, no cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from paretune.compressors.companions import companion_files
from paretune.spaces.architectures import check_weights
from paretune.spaces.architectures.description import model_class
from paretune.spaces.architectures.headers import weight_files
from paretune.spaces.architectures.weights import BLOCK_INDEX
from paretune.spaces.errors import ModelError
from paretune.spaces.files import (
    CONFIGURATION,
    WRONG_CONTENT,
    FileKind,
    read_object,
    refusing,
    sha256_of_file,
)
from paretune.spaces.model import ModelSpec

_MODEL_FILE = FileKind("model file", ModelError, "Copy or download it again")


def load_dense(
    folder: Path, spec: ModelSpec, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Any:
    """The dense model, ready to be measured and to have its weights swapped.

    Args:
        folder: in Hugging Face format, with safetensors.
        spec: of the same model; the parameters are checked against it.
        dtype: of all parameters; float32 on a CPU (bf16 is slower there and adds noise).
        device: where they go.

    Returns:
        A ``PreTrainedModel`` in evaluation mode, without gradients and without a cache.

    Raises:
        ModelError: weights that are absent, cut short or those of another model.
    """
    check_weights(folder, spec)
    # To a GPU go the bytes of the checkpoint, which are widened there.
    stored: torch.dtype = getattr(torch, spec.dtype)
    travels = stored if torch.device(device).type == "cuda" and spec.shipped is None else dtype
    model = load_checkpoint(folder, travels, device)
    if travels != dtype:
        _cast(model, dtype)
    _refuse_two_heads(model, folder, spec)
    check_parameters(model, folder, spec)
    return model


def _refuse_two_heads(model: Any, folder: Path, spec: ModelSpec) -> None:
    if spec.tied and model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        raise ModelError(
            f"tie_word_embeddings in {folder / 'config.json'}",
            f"is true, and the weights hold a {spec.head.parameter} that is not {spec.embedding.parameter}",
            "Set it to false, or use config.json and weights of the same model",
        )


def check_parameters(model: Any, folder: Path, spec: ModelSpec) -> None:
    """Refuse a model whose parameters are not those of ``spec``.

    Raises:
        ModelError: names the first one that is absent or shaped otherwise.
    """
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in spec.parameter_shapes.items():
        if found.get(name) != shape:
            raise ModelError(
                f"parameter {name} of {folder}",
                f"must have shape {shape}, the loaded model has {found.get(name)}",
                "Use a version of transformers from 5.5 to 5.17",
            )


def read_model_config(folder: Path) -> tuple[Any, str]:
    """The configuration as ``transformers`` reads it, and the implementation of attention that computes it.

    Attention runs through scaled dot products, except where logits are capped (Gemma 2) or have sinks (gpt-oss), which
    only the plain implementation computes.

    Raises:
        OSError, ValueError, KeyError: ``transformers`` refuses it.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    plain = capped or not getattr(model_class(config), "_supports_sdpa", True)
    return config, "eager" if plain else "sdpa"


def load_checkpoint(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    expand: Any = None,
) -> Any:
    """Whatever ``transformers`` loads from ``folder``, quantized or not; see :func:`load_dense`.

    ``expand`` is a configuration of its quantization that says to expand the weights while they are read.

    Raises:
        ModelError: ``transformers`` refuses the folder.
    """
    with told_by_transformers(folder):
        config, attention = read_model_config(folder)
        _refuse_unknown_method(folder, config)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars of the container's library
            model, said = model_class(config).from_pretrained(
                folder,
                config=config,
                dtype=torch.bfloat16 if _block_floats(config) else dtype,
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **({} if expand is None else {"quantization_config": expand}),
            )
            _refuse_other_weights(folder, model, said)
            _refuse_missing(folder, model, said)
            model = _expanded(model.to(device).eval().requires_grad_(False))
    _cast(model, dtype)
    _refuse_not_finite(folder, model)
    model.config.use_cache = False
    return model


def _cast(model: Any, dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        narrow(model, dtype)
        return
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def narrow(model: Any, dtype: torch.dtype) -> None:
    """Round the parameters of a model to ``dtype`` where they are.

    Parameters that its family keeps in float32 stay so, and buffers too: frequencies of rotary embeddings in bfloat16
    would be those of another model.
    """
    kept = [*(getattr(model, "_keep_in_fp32_modules", None) or ())]
    kept += [*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())]
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtype and not any(part in name for part in kept):
            parameter.data = parameter.data.to(dtype)


def _refuse_missing(folder: Path, model: Any, said: dict[str, Any]) -> None:
    """``transformers`` fills in random numbers for parameters that are absent, and only logs it."""
    absent = said["missing_keys"]
    # Single numbers are constants of the architecture (Gemma's scale of embeddings), which the library computes.
    missing = sorted(name for name, found in model.named_parameters() if name in absent and found.numel() > 1)
    if missing:
        raise ModelError(
            f"tensor {missing[0]} of {folder}",
            f"is absent, as are {len(missing) - 1} others: transformers would fill in random numbers",
            "Use the complete weights of the same model",
        )


def _refuse_other_weights(folder: Path, model: Any, said: dict[str, Any]) -> None:
    """Refuse weights of other shapes than ``config.json`` says, or of more blocks, which would be left out."""
    known = {BLOCK_INDEX.sub("*", name) for name, _ in model.named_parameters()}
    more = sorted(name for name in said["unexpected_keys"] if BLOCK_INDEX.sub("*", name) in known)
    wrong = [
        (name, f"has shape {tuple(stored)}, config.json promises {tuple(wanted)}")
        for name, stored, wanted in sorted(said["mismatched_keys"])
    ]
    for name, rule in (*wrong, *((name, "is of one block more than config.json counts") for name in more)):
        remedy = "Use config.json and weights of the same model"
        raise ModelError(f"tensor {name} of {folder}", rule, remedy)


def _refuse_unknown_method(folder: Path, config: Any) -> None:
    """``transformers`` takes a checkpoint that is quantized by a method it does not know for a plain one."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    found = getattr(config, "quantization_config", None) or {}
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    method = str(getattr(method, "value", method))
    known = {name.partition("_4bit")[0].partition("_8bit")[0] for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    if found and method not in known:
        raise ModelError(
            f"model folder {folder}",
            f"is quantized by a method that transformers does not have ({method})",
            "Start from the unquantized checkpoint that it was made from",
        )


def _refuse_not_finite(folder: Path, model: Any) -> None:
    """A NaN in one weight makes every prediction one; it is better told by name than by what comes of it."""
    for name, parameter in model.named_parameters():
        if parameter.numel() and not all(math.isfinite(float(end)) for end in parameter.detach().aminmax()):
            raise ModelError(
                f"tensor {name} of {folder}",
                "holds numbers that are not finite",
                "Repair the checkpoint, or take one whose weights were not cut to a narrower type",
            )


@contextlib.contextmanager
def told_by_transformers(folder: Path) -> Iterator[None]:
    """Make a refusal by ``transformers``, which is quiet meanwhile, one of ours.

    Raises:
        ModelError: with the first line of the library's reason.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    _quiet()
    wrong = (StrictDataclassError, SafetensorError, UnpicklingError, AssertionError, *WRONG_CONTENT)
    try:
        yield
    except (OSError, RuntimeError, ImportError, *wrong) as error:
        raise ModelError(
            f"model folder {folder}",
            f"transformers {transformers.__version__} cannot load it ({_first_line(error)})",
            "Check that the folder is complete and of an architecture that transformers knows",
        ) from error


def _block_floats(config: Any) -> bool:
    """Whether some weights are block floats, which compressed-tensors expands to bf16 whatever dtype is asked for.

    The model is expanded in bf16 then. Powers of two as scales make that exact; NVFP4's products are rounded.
    """
    found = getattr(config, "quantization_config", None) or {}
    groups = found.get("config_groups", {}).values() if isinstance(found, dict) else ()
    return any(str(group.get("format", "")).startswith(("nvfp4", "mxfp4", "mxfp8")) for group in groups)


def _expanded(model: Any) -> Any:
    """Packed weights are expanded by the first pass; here, where they become ordinary tensors.

    In inference mode they would become inference tensors, which nothing may be done to afterwards: lm-eval ties
    weights again.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    return model


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside a model, checked against the model's vocabulary.

    Raises:
        ModelError: there is none, or it makes tokens that the embedding does not have.
    """
    import transformers

    _quiet()
    companion_files(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library's own reader, written in Rust, raises bare exceptions
        raise ModelError(
            f"tokenizer in {folder}",
            f"cannot be loaded ({_first_line(error)})",
            "Put tokenizer.json and tokenizer_config.json beside the model",
        ) from error
    # Special tokens that were added later may lie beyond the embedding as long as no text has them.
    words = tokenizer.get_vocab().items() - tokenizer.get_added_vocab().items()
    largest, rows = max((index for _, index in words), default=-1), _vocabulary(folder)
    if largest < 0 or (rows is not None and largest >= rows):
        raise ModelError(
            f"tokenizer in {folder} with tokens up to {largest}",
            f"the model's embedding has {rows} rows",
            "Use tokenizer and model that belong together",
        )
    return tokenizer


def require_same_tokenizer(base: Path, folder: Path) -> None:
    """Refuse two models whose tokens mean different things.

    Raises:
        ModelError: the vocabularies differ; names the first token that does.
    """
    first, second = (load_tokenizer(path).get_vocab() for path in (base, folder))
    if first != second:
        differing = sorted(set(first.items()) ^ set(second.items()), key=lambda item: item[1])
        token, index = differing[0]
        raise ModelError(
            f"tokenizers of {base} and {folder}",
            f"differ (token {token!r} = {index} is not in both)",
            "Compare a checkpoint with the model it was made from",
        )


def model_hash(folder: Path) -> str:
    """SHA-256 over ``config.json`` and the weight files with their names: what makes the model's numbers.

    Raises:
        ModelError: a file is absent.
    """
    digest = hashlib.sha256()
    for file in (folder / "config.json", *weight_files(folder)):
        digest.update(file.name.encode())
        digest.update(bytes.fromhex(sha256_of_file(file, _MODEL_FILE)))
    return digest.hexdigest()


def _vocabulary(folder: Path) -> int | None:
    """Rows of the embedding, where the configuration says; for a folder without one nothing is known."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    values = read_object(file, CONFIGURATION)
    with refusing(file, CONFIGURATION):
        found = values.get("vocab_size", (values.get("text_config") or {}).get("vocab_size"))
    return found if isinstance(found, int) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _quiet() -> None:
    """No progress bars and no advice from the library: the commands report progress themselves."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
