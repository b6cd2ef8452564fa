"""Whose bank is it? The identity that is written beside the entries, and the refusal of another's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from paretune.compressors.entry_store import lock_bank
from paretune.compressors.pruners import PRUNERS
from paretune.compressors.quantizers import QUANTIZERS
from paretune.compressors.statistics import STATISTICS_VERSION, Statistics, gather
from paretune.compressors.tensor_file import write_tensors
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import RunError
from paretune.spaces.files import FileKind, read_bytes, read_document, write_document
from paretune.spaces.schema import Document

IDENTITY = "bank.json"
STATISTICS = "statistics.safetensors"
_DAMAGED = FileKind("file", RunError, "Delete the folder; the bank is built again", 1 << 40)
_LABELS = {"model": "model", "calibration": "calibration text", "scale_dtype": "dtype of scales"}


class BankIdentity(Document):
    """``bank.json``.

    Attributes:
        model: hash of the model.
        calibration: digest of the calibration windows.
        scale_dtype: ``bfloat16``, ``float16`` or ``float32``.
        methods: version of every quantizer and criterion when the bank was started.
        statistics: SHA-256 of the statistics' file.
        statistics_version: of what is gathered.
    """

    model: str
    calibration: str
    scale_dtype: str
    methods: dict[str, str]
    statistics: str = ""
    statistics_version: str = "1"

    @classmethod
    def of(cls, model: str, calibration: str, scale_dtype: str) -> BankIdentity:
        """The identity of a bank made now."""
        methods = {name: QUANTIZERS.find(name).version for name in QUANTIZERS}
        methods |= {name: PRUNERS.find(name).version for name in PRUNERS}
        return cls(
            model=model,
            calibration=calibration,
            scale_dtype=scale_dtype,
            methods=methods,
            statistics_version=STATISTICS_VERSION,
        )


def open_identity(
    folder: Path, wanted: BankIdentity, model: Any, calibration: TokenWindows, source: WeightSource
) -> tuple[BankIdentity, Statistics]:
    """Identity and statistics of the bank in ``folder``; both are made if it is absent.

    Raises:
        RunError: it is another's, or damaged.
    """
    file = folder / IDENTITY
    if not file.is_file():
        statistics = gather(model, source.spec, calibration, source)
        with lock_bank(folder):
            if not file.is_file():  # another process may have been faster: then its statistics count
                digest, _ = write_tensors(folder / STATISTICS, statistics.tensors)
                identity = wanted.model_copy(update={"statistics": digest})
                write_document(file, identity)
                return identity, statistics
    found = _read(file)
    _refuse_other(folder, found, wanted)
    return found, _load_statistics(folder, found.statistics)


def _read(file: Path) -> BankIdentity:
    return read_document(file, BankIdentity, _DAMAGED)


def _refuse_other(folder: Path, found: BankIdentity, wanted: BankIdentity) -> None:
    for field, label in _LABELS.items():
        theirs, ours = getattr(found, field), getattr(wanted, field)
        if theirs != ours:
            raise RunError(
                f"bank in {folder}",
                f"was made for another {label} ({theirs[:12]}, this run has {ours[:12]})",
                "Name another bank folder, or delete this one",
            )
    for name, version in (found.methods | {"statistics": found.statistics_version}).items():
        ours = (wanted.methods | {"statistics": wanted.statistics_version}).get(name, "none")
        if ours != version:
            raise RunError(
                f"bank in {folder}",
                f"was made with version {version} of {name}, this is version {ours}",
                "Delete the folder; the bank is built again",
            )


def _load_statistics(folder: Path, digest: str) -> Statistics:
    from safetensors.torch import load

    file = folder / STATISTICS
    content = read_bytes(file, _DAMAGED)
    if hashlib.sha256(content).hexdigest() != digest:
        raise _DAMAGED.refusal(file, "is not what bank.json says")
    return Statistics(load(content))
