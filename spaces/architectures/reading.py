"""``config.json`` in, :class:`~paretune.spaces.model.ModelSpec` out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paretune.spaces.architectures.description import Dtype, describe
from paretune.spaces.architectures.quantized import find_quantization
from paretune.spaces.architectures.weights import stored_dtype
from paretune.spaces.errors import ModelError
from paretune.spaces.files import CONFIGURATION, read_object, refuse_linked_out, refusing
from paretune.spaces.model import ModelSpec

_DTYPES: dict[str, Dtype] = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}


def read_model(folder: Path, source: str | None = None, revision: str | None = None) -> ModelSpec:
    """The specification of the model in ``folder``; weights need not be there.

    Of a checkpoint that ships quantized it is that of the model that it dequantizes to (``shipped`` says what it was).

    Args:
        folder: holds ``config.json``.
        source: what the user named (a folder or a hub id); the folder when left out.
        revision: of a hub id.

    Raises:
        ModelError: no or unreadable configuration, an adapter, a model that ``transformers`` does not know.
    """
    file = folder / "config.json"
    _refuse_adapter(folder)
    values = read_object(refuse_linked_out(file, folder), CONFIGURATION)
    quantized = find_quantization(folder, values)
    with refusing(file, CONFIGURATION), _quiet_library():
        config = _read_config(folder, values, file)
        dtype = _dtype(None if quantized else folder, config, file)
        spec = describe(config, str(folder) if source is None else source, revision, dtype)
        if quantized is None:
            return spec
        return spec.model_copy(update={"shipped": quantized.shipped(folder, spec)})


def _read_config(folder: Path, values: dict[str, Any], file: Path) -> Any:
    """The configuration as ``transformers`` reads it, without code from the model's repository.

    Raises:
        ModelError: it is unknown to the library, needs such code, or has values that its class refuses.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = values.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES
    if not known:
        code = isinstance(values.get("auto_map"), dict)
        raise ModelError(
            f"model_type {kind!r} in {file}",
            f"is not known to transformers {transformers.__version__}"
            + (" and needs the code of its repository, which is not run" if code else ""),
            "Save the model in an architecture that transformers has (a newer transformers may have this one)",
        )
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(
            f"{file}", f"is refused by transformers {transformers.__version__} ({reason})", "Correct the file"
        ) from error


@contextmanager
def _quiet_library() -> Iterator[None]:
    """No advice from the library about keys of a file that somebody else wrote."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _dtype(folder: Path | None, config: Any, file: Path) -> Dtype:
    """How the weights in ``folder`` are stored: as they say themselves, else (or of none) as the configuration says.

    Raises:
        ModelError: the configuration names a type that is no unquantized floating point number.
    """
    stored = None if folder is None else stored_dtype(folder)
    if stored is not None:
        return stored
    said = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    # What was quantized was bfloat16 before, where nobody says otherwise.
    name = str(said or ("float32" if folder else "bfloat16")).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelError(
            f"dtype {name!r} in {file}",
            "weights must be bfloat16, float16 or float32",
            "Start from the unquantized checkpoint",
        )
    return _DTYPES[name]


def _refuse_adapter(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model folder {folder}",
            "holds an adapter (adapter_config.json), which would be laid over the weights",
            "Merge it (merge_and_unload of peft), save the whole model, and name that folder",
        )
