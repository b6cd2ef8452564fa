"""From a configuration of ``transformers`` to a :class:`~paretune.spaces.model.ModelSpec`.

The model is built on the meta device, without a weight, and read: names and shapes are those that loading it will
have, whatever the family. What a layer computes is told by its name, as far as anybody asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from paretune.spaces.architectures.families import find_family
from paretune.spaces.errors import ModelError
from paretune.spaces.model import (
    OUTSIDE_LANGUAGE,
    AttentionCache,
    Axis,
    Block,
    Cache,
    FixedTensor,
    LatentCache,
    Linear,
    ModelSpec,
    NoCache,
    Role,
    StateCache,
    Uncuttable,
)

Dtype = Literal["bfloat16", "float16", "float32"]

_ATTENTION: Mapping[str, Role] = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v",
    "qkv_proj": "qkv", "query_key_value": "qkv", "c_attn": "qkv", "Wqkv": "qkv",
    "o_proj": "o", "out_proj": "o", "dense": "o", "c_proj": "o",
}  # fmt: skip
_FEED_FORWARD: Mapping[str, Role] = {
    "gate_proj": "gate", "up_proj": "up", "fc1": "up", "c_fc": "up", "dense_h_to_4h": "up", "gate_up_proj": "gate_up",
    "down_proj": "down", "fc2": "down", "dense_4h_to_h": "down", "c_proj": "down",
}  # fmt: skip
_STACKED: Mapping[str, tuple[Role, int]] = {
    "gate_up_proj": ("expert_gate_up", 2), "up_proj": ("expert_up", 1), "down_proj": ("expert_down", 1),
}  # fmt: skip
"""Parameters of all experts: role, and how many linears each matrix is stored as."""
_ORDER = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
_READERS = (
    "q", "k", "v", "qkv", "gate", "up", "gate_up", "shared_gate", "shared_up", "shared_gate_up",
    "expert_gate_up", "expert_up", "embedding", "head",
)  # fmt: skip
_WRITERS = ("o", "down", "shared_down", "expert_down")

_STAYS = (
    ("router", re.compile(r"(^|\.)(gate|router|router\.proj|shared_expert_gate|router\.layer)$")),
    ("indexer", re.compile(r"(^|\.)(indexer|compressor)(\.|$)")),
    ("state", re.compile(r"(^|\.)(in_proj_[ab]|in_proj_ba|dt_proj|x_proj|g_proj|b_proj|[fg]_[ab]_proj)$")),
)
"""Linears inside blocks that stay as they are: small, and every token's path or memory hangs on them."""


def model_class(config: Any) -> Any:
    """The class of ``transformers`` that loads a checkpoint with this configuration, language-model head included.

    Raises:
        ModelError: the configuration names a class without such a head, or needs code of its own repository.
    """
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    named = (getattr(config, "architectures", None) or [""])[0]
    found = getattr(transformers, named, None) if named else None
    mapped = [
        mapping[type(config)]
        for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
        if type(config) in mapping
    ]
    if found is None and mapped:
        return mapped[0]
    if found is None or not hasattr(found, "_from_config"):
        raise ModelError(
            f"architecture {named or 'of no name'} (model_type {config.model_type})",
            "must be a language model with a head that transformers itself knows",
            "Name a model that AutoModelForCausalLM or AutoModelForImageTextToText loads without remote code",
        )
    return found


def describe(config: Any, source: str, revision: str | None, dtype: Dtype) -> ModelSpec:
    """The specification of the model with this configuration.

    Args:
        config: a ``PretrainedConfig``.
        source: what the user named.
        revision: of a hub id.
        dtype: how its weights are stored.

    Raises:
        ModelError: it is no decoder, or ``transformers`` cannot build it.
    """
    return _Reader(config, _built(config)).spec(source, revision, dtype)


def _built(config: Any) -> Any:
    """The model on the meta device: modules and shapes, no memory."""
    import torch

    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ModelError(
            f"model_type {config.model_type}", "only decoders alone are supported", "Use a decoder"
        )
    _check_numbers(config.get_text_config(decoder=True), str(config.model_type))
    wanted = model_class(config)
    try:
        with torch.device("meta"):
            model = wanted._from_config(config)
    except Exception as error:
        raise ModelError(
            f"configuration of {config.model_type}",
            f"transformers cannot build the model ({(str(error) or type(error).__name__).splitlines()[0][:200]})",
            "Check that config.json is complete and belongs to this model",
        ) from error
    if model.get_output_embeddings() is None or model.get_input_embeddings() is None:
        raise ModelError(
            f"architecture {type(model).__name__}",
            "must be a language model with a token embedding and a head",
            "Name the causal language model of this family",
        )
    return model


def _check_numbers(text: Any, model_type: str) -> None:
    """Refuse sizes that a family's own class would take and make nothing of."""
    if getattr(text, "vocab_size", None) is None:
        raise ModelError(
            f"model_type {model_type}",
            "has no language part: no vocabulary, hence no token to predict",
            "Name a language model, or a vision-language model, of which the language part is searched",
        )
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        found = getattr(text, key, None)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise ModelError(
                f"{key} = {found!r} of a {model_type}",
                "must be a whole number of at least 1",
                "Check that config.json is complete and belongs to this model",
            )
    heads = keys = None
    with suppress(RuntimeError):  # counts that differ from layer to layer have no value of the whole model
        heads, keys = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    if isinstance(heads, int) and isinstance(keys, int) and keys and heads % keys:
        raise ModelError(
            f"{heads} heads and {keys} key-value heads of a {model_type}",
            "the first must be a multiple of the second",
            "Check that config.json belongs to this model",
        )


@dataclass
class _Reader:
    """Reads one model that was built on the meta device."""

    config: Any
    model: Any

    @cached_property
    def text(self) -> Any:
        """The configuration of the language part."""
        return self.config.get_text_config(decoder=True)

    @cached_property
    def modules(self) -> dict[str, Any]:
        return dict(self.model.named_modules())

    @cached_property
    def names(self) -> dict[int, str]:
        """Module paths by the identity of the module."""
        return {id(module): name for name, module in self.modules.items()}

    @cached_property
    def block_path(self) -> str:
        """The list of blocks: the heaviest list of as many modules as the language part has blocks."""
        import torch

        count = self.text.num_hidden_layers
        lists = {
            name: sum(parameter.numel() for parameter in module.parameters())
            for name, module in self.modules.items()
            if isinstance(module, torch.nn.ModuleList) and len(module) == count
        }
        if not lists:
            raise ModelError(
                f"model_type {self.config.model_type}",
                f"has no list of {count} blocks",
                "Name a decoder whose blocks are numbered",
            )
        return max(lists, key=lambda name: (lists[name], -len(name)))

    def block_of(self, name: str) -> int | None:
        """Index of the block that a module or parameter lies in."""
        prefix = f"{self.block_path}."
        return int(name[len(prefix) :].split(".", 1)[0]) if name.startswith(prefix) else None

    def spec(self, source: str, revision: str | None, dtype: Dtype) -> ModelSpec:
        """All of it."""
        text = self.text
        layout = tuple(self._block(index) for index in range(text.num_hidden_layers))
        attention = next((x.cache for x in layout if isinstance(x.cache, AttentionCache)), None)
        mixture = next((block for block in layout if block.experts), None)
        heads = next((block.heads for block in layout if block.heads), 0) or _count(
            text, "num_attention_heads"
        )
        linears = self._linears()
        fixed = self._fixed({linear.parameter for linear in linears}, {x.name: x for x in linears})
        return ModelSpec(
            source=source,
            revision=revision,
            model_type=str(self.config.model_type),
            architecture=type(self.model).__name__,
            family=self._family,
            dtype=dtype,
            block_path=self.block_path,
            blocks=len(layout),
            hidden_size=text.hidden_size,
            heads=heads,
            kv_heads=attention.kv_heads
            if attention
            else max(1, _count(text, "num_key_value_heads") or heads),
            head_dim=attention.head_dim
            if attention
            else _count(text, "head_dim") or text.hidden_size // heads,
            ffn_size=(mixture or next((b for b in layout if b.ffn), layout[0])).ffn or text.hidden_size,
            vocabulary=self._embedding.num_embeddings,
            context=_context(text),
            tied=self._tied,
            experts=mixture.experts if mixture else 0,
            active_experts=mixture.active_experts if mixture else 0,
            linears=tuple(linears),
            fixed=tuple(fixed),
            layout=layout,
            uncuttable=self._uncuttable,
            heads_divide_hidden=find_family(self._family).heads_divide_hidden,
        )

    @cached_property
    def _family(self) -> str:
        return str(self.text.model_type).removesuffix("_text")

    @cached_property
    def _uncuttable(self) -> tuple[Uncuttable, ...]:
        """The cuts that this model cannot express; every layer's axes ask for them."""
        found = find_family(self._family).refusals(self.config)
        if self.config is self.text or any(cut.kind == "hidden" for cut in found):
            return found
        reason = "other parts of the model write into the hidden channels of its language part"
        return (*found, Uncuttable(kind="hidden", reason=reason))

    @property
    def _embedding(self) -> Any:
        return self.model.get_input_embeddings()

    @property
    def _head(self) -> Any:
        return self.model.get_output_embeddings()

    @cached_property
    def _tied(self) -> bool:
        return self._head.weight is self._embedding.weight

    # Layers

    def _linears(self) -> list[Linear]:
        inside = sorted(
            self._inside(),
            key=lambda x: (x.block or 0, _ORDER.index(x.role) if x.role in _ORDER else len(_ORDER)),
        )
        embedding, head = (
            self._linear(self.names[id(module)], module, role, None)
            for module, role in ((self._embedding, "embedding"), (self._head, "head"))
        )
        return [embedding, *inside, head]

    def _inside(self) -> Iterator[Linear]:
        """Layers of the blocks: plain linears, and parameters that hold the matrices of all experts."""
        import torch
        from transformers.pytorch_utils import Conv1D

        for name, module in self.modules.items():
            block = self.block_of(name)
            if block is None or name == f"{self.block_path}.{block}":
                continue
            # Classes that derive from Linear compute something else with their weight (routers, grouped products).
            if type(module) in (torch.nn.Linear, Conv1D):
                local = name.removeprefix(f"{self.block_path}.{block}.")
                if self._why_fixed(local) is None:
                    yield self._linear(name, module, self._role(local, block), block)
            else:
                yield from self._experts(name, module, block)

    @staticmethod
    def _why_fixed(local: str) -> str | None:
        """Why a linear at this path inside a block is no candidate; ``None`` if it is one."""
        return next((kind for kind, pattern in _STAYS if pattern.search(local)), None)

    def _role(self, local: str, block: int) -> Role:
        """What the linear at this path inside a block computes."""
        *parents, leaf = local.split(".")
        parent = parents[-1] if parents else ""
        if parent.startswith("shared_expert"):
            return f"shared_{_FEED_FORWARD[leaf]}" if leaf in _FEED_FORWARD else local
        if len(parents) > 1:
            return local
        if leaf in _ATTENTION and (
            parent in ("self_attn", "attn", "attention")
            or f"{self.block_path}.{block}.{parent}.k_proj" in self.modules
        ):
            return _ATTENTION[leaf]
        plain = parent in ("", "mlp", "feed_forward", "mixer", "ffn", "block_sparse_moe")
        return _FEED_FORWARD[leaf] if plain and leaf in _FEED_FORWARD else local

    def _linear(self, name: str, module: Any, role: Role, block: int | None) -> Linear:
        weight = module.weight
        transposed = type(module).__name__ == "Conv1D"
        rows, columns = weight.shape[::-1] if transposed else weight.shape
        return self._layer(name, f"{name}.weight", role, block, (rows, columns), transposed=transposed)

    def _experts(self, name: str, module: Any, block: int) -> Iterator[Linear]:
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3 and leaf in _STACKED and "expert" in name:
                role, pieces = _STACKED[leaf]
                rows, columns = parameter.shape[1:]
                transposed = self._stored_by_column(module, leaf, parameter)
                shape = (columns, rows) if transposed else (rows, columns)
                path = f"{name}.{leaf}"
                yield self._layer(
                    path,
                    path,
                    role,
                    block,
                    shape,
                    experts=len(parameter),
                    pieces=pieces,
                    transposed=transposed,
                )

    def _stored_by_column(self, module: Any, leaf: str, parameter: Any) -> bool:
        """Whether experts lie as ``(experts, in, out)``: gpt-oss and Llama 4 multiply from the left."""
        said = getattr(module, "is_transposed", None)
        if said is not None:
            return bool(said)
        first = parameter if leaf != "down_proj" else getattr(module, "gate_up_proj", parameter)
        hidden = self.text.hidden_size
        return bool(first.shape[1] == hidden and first.shape[2] != hidden)

    def _layer(
        self, name: str, parameter: str, role: Role, block: int | None, shape: tuple[int, int], **more: Any
    ) -> Linear:
        out_axis, in_axis = self._axes(role, block)
        return Linear(
            name=name,
            parameter=parameter,
            role=role,
            block=block,
            out_features=shape[0],
            in_features=shape[1],
            out_axis=out_axis,
            in_axis=in_axis,
            **more,
        )

    def _axes(self, role: Role, block: int | None) -> tuple[Axis, Axis]:
        """What rows and columns count, for cuts; ``none`` where the family cannot cut that."""
        refused = {cut.kind for cut in self._uncuttable}
        out_axis: Axis = "none"
        in_axis: Axis = "none"
        if "kv_heads" not in refused:
            inner: dict[Role, Axis] = {"q": "heads", "k": "kv_heads", "v": "kv_heads", "qkv": "qkv"}
            out_axis = inner.get(role, out_axis)
            in_axis = "heads" if role == "o" else in_axis
        if "ffn_channels" not in refused and not self._keeps_channels(role, block):
            widths: dict[Role, Axis] = {
                "gate": "ffn", "up": "ffn", "gate_up": "ffn_pair", "expert_gate_up": "ffn_pair", "expert_up": "ffn",
            }  # fmt: skip
            out_axis = widths.get(role, out_axis)
            in_axis = "ffn" if role in ("down", "expert_down") else in_axis
        if role in _WRITERS:
            return "hidden", in_axis
        return (out_axis, "hidden") if role in _READERS else (out_axis, in_axis)

    def _keeps_channels(self, role: Role, block: int | None) -> bool:
        """Dense blocks among mixtures keep their channels: what is cut there are the experts'."""
        return self._mixtures and block is not None and role in ("gate", "up", "gate_up", "down")

    @cached_property
    def _mixtures(self) -> bool:
        return any(
            parameter.ndim == 3 and "expert" in name for name, parameter in self.model.named_parameters()
        )

    # Everything else

    def _fixed(self, taken: set[str], linears: Mapping[str, Linear]) -> Iterator[FixedTensor]:
        for name, parameter in self.model.named_parameters():
            if name not in taken:
                yield self._tensor(name, tuple(parameter.shape), linears)
        stored = self.model.state_dict()
        for name, buffer in self.model.named_buffers():
            if name in stored:
                yield FixedTensor(
                    name=name, shape=tuple(buffer.shape), block=self.block_of(name), kind="buffer"
                )

    def _tensor(self, name: str, shape: tuple[int, ...], linears: Mapping[str, Linear]) -> FixedTensor:
        path, _, leaf = name.rpartition(".")
        block = self.block_of(name)
        owner = linears.get(path)
        kind = self._kind(name, path, leaf, shape, block)
        axis: Axis = "none"
        inner: Axis = "none"
        if owner is not None and leaf == "bias":
            axis = owner.out_axis
        elif (
            kind == "norm" and shape == (self.text.hidden_size,) and not re.search(r"[qk]_(layer)?norm", path)
        ):
            axis = "hidden"
        elif kind == "router" and shape[1:] == (self.text.hidden_size,):
            inner = "hidden"
        return FixedTensor(name=name, shape=shape, block=block, axis=axis, inner_axis=inner, kind=kind)

    def _kind(self, name: str, path: str, leaf: str, shape: tuple[int, ...], block: int | None) -> str:
        """Why a tensor is no candidate."""
        if block is None and not path.startswith(self.block_path.rpartition(".")[0]):
            return OUTSIDE_LANGUAGE
        fixed = (
            self._why_fixed(path.removeprefix(f"{self.block_path}.{block}.")) if block is not None else None
        )
        module = type(self.modules[path]).__name__ if path in self.modules else ""
        found = (
            (fixed is not None, fixed or ""),
            ("Router" in module, "router"),
            ("Conv" in module and module != "Conv1D", "convolution"),
            (leaf == "bias" or leaf.endswith("_bias"), "bias"),
            (len(shape) == 1, "norm" if leaf == "weight" else "state"),
            ("position" in name or name.endswith("wpe.weight"), "positions"),
        )
        return next((kind for holds, kind in found if holds), "another computation")

    # Blocks

    def _block(self, index: int) -> Block:
        path = f"{self.block_path}.{index}."
        inside = {name.removeprefix(path): m for name, m in self.modules.items() if name.startswith(path)}
        cache = self._cache(index, inside)
        ffn, experts, shared = self._feed_forward(index, inside)
        active = _count(
            self.text,
            "num_experts_per_tok",
            "num_experts_per_token",
            "experts_per_token",
            "moe_topk",
            "top_k_experts",
        )
        return Block.model_validate(
            {
                "mixer": cache.kind,
                "heads": self._heads(index) if cache.kind in ("attention", "latent") else 0,
                "ffn": ffn,
                "experts": experts,
                "active_experts": active if experts else 0,
                "shared_experts": shared,
                "cache": cache,
            }
        )

    def _heads(self, index: int) -> int:
        """Query heads of a block; a family may list them block by block."""
        found = self.text.num_attention_heads
        return int(found[index] if isinstance(found, list | tuple) else found)

    def _feed_forward(self, index: int, inside: Mapping[str, Any]) -> tuple[int, int, int]:
        """Channels, experts, channels of shared experts."""
        for name, module in inside.items():
            down: Any = getattr(module, "down_proj", None)
            if "expert" in name and getattr(down, "ndim", 0) == 3:
                shared = next(
                    (m for n, m in inside.items() if re.search(r"shared_experts?\.down_proj$", n)), None
                )
                columns = self._stored_by_column(module, "down_proj", down)
                width = down.shape[1] if columns else down.shape[2]
                return int(width), len(down), 0 if shared is None else int(shared.in_features)
        for name, module in inside.items():
            if self._role(name, index) == "down" and hasattr(module, "weight"):
                rows, columns = module.weight.shape
                return int(rows if type(module).__name__ == "Conv1D" else columns), 0, 0
        return 0, 0, 0

    def _cache(self, index: int, inside: Mapping[str, Any]) -> Cache:
        for name, module in inside.items():
            leaf = name.rpartition(".")[2]
            if leaf in ("kv_a_proj_with_mqa", "kv_a_proj"):
                return LatentCache(width=module.out_features, indexer=self._indexer(inside))
            if leaf == "kv_proj" and name.count(".") == 1:
                return LatentCache(width=module.out_features, indexer=self._indexer(inside))
        recurrent = [
            m for n, m in inside.items() if "." not in n and (hasattr(m, "conv1d") or hasattr(m, "conv"))
        ]
        numbers = sum(_state_numbers(module) for module in recurrent)
        plain = self._attention(index, inside)
        if plain is not None:
            return plain.model_copy(update={"state": numbers})
        return StateCache(numbers=numbers) if recurrent else NoCache()

    @staticmethod
    def _indexer(inside: Mapping[str, Any]) -> int:
        """Numbers a token that an indexer keeps to choose what is attended to."""
        keys = [m for n, m in inside.items() if re.search(r"indexer\.(wk|k_proj)$", n)]
        return sum(int(module.out_features) for module in keys)

    def _attention(self, index: int, inside: Mapping[str, Any]) -> AttentionCache | None:
        keys = next((m for n, m in inside.items() if re.fullmatch(r"\w+\.k_proj", n)), None)
        tops = (m for n, m in inside.items() if "." not in n and "mlp" not in n)
        parent = next((m for m in tops if any(hasattr(m, leaf) for leaf in _ATTENTION)), None)
        if parent is None or (keys is None and not _is_attention(parent)):
            return None
        heads = self._heads(index)
        width = int(
            getattr(parent, "head_dim", 0)
            or getattr(parent, "head_size", 0)
            or self.text.hidden_size // heads
        )
        if keys is not None:
            count = int(keys.weight.shape[0]) // width
            values = getattr(parent, "v_proj", None)
            value = int(values.weight.shape[0]) // count if values is not None else width
        else:
            count, value = _count(self.text, "num_key_value_heads", "num_kv_heads") or heads, width
        return AttentionCache(
            kv_heads=count,
            head_dim=width,
            value_dim=None if value == width else value,
            window=self._window(index),
            shared=bool(getattr(parent, "is_kv_shared_layer", False)),
        )

    def _window(self, index: int) -> int | None:
        """Tokens that sliding attention keeps in a block; ``None``: all."""
        text = self.text
        kinds = getattr(text, "layer_types", None)
        if kinds:
            if kinds[index] == "chunked_attention":
                return _count(text, "attention_chunk_size") or None
            if "sliding" not in kinds[index]:
                return None
        elif getattr(text, "use_sliding_window", None) is False:
            return None
        return _count(text, "sliding_window") or None


def _is_attention(module: Any) -> bool:
    return "Attention" in type(module).__name__


def _state_numbers(module: Any) -> int:
    """Numbers that a recurrent module keeps for a sequence.

    Mamba (arXiv:2312.00752) and Mamba 2 (arXiv:2405.21060): inputs of the convolution and a state for each channel;
    gated delta net (arXiv:2412.06464): a matrix for each value head; short convolutions: their last inputs.
    """
    conv = getattr(module, "conv1d", None) or module.conv
    kept = int(conv.in_channels) * int(conv.kernel_size[0])
    if hasattr(module, "num_v_heads"):
        return kept + int(module.num_v_heads * module.head_k_dim * module.head_v_dim)
    state = int(getattr(module, "ssm_state_size", 0) or getattr(module, "state_size", 0) or 0)
    heads = getattr(module, "num_heads", None)
    if state and heads and hasattr(module, "head_dim"):
        return kept + int(heads) * int(module.head_dim) * state
    return kept + int(conv.in_channels) * state


def _count(config: Any, *names: str) -> int:
    """The first of several numbers that the configuration has; 0 where it has none."""
    for name in names:
        found = getattr(config, name, None)
        if isinstance(found, list | tuple) and found:
            found = found[0]
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return 0


def _context(config: Any) -> int:
    """Longest sequence; YaRN and linear scaling lengthen what the model was trained on."""
    longest = _count(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    scaling = getattr(config, "rope_parameters", None) or {}
    kinds = [scaling] if "rope_type" in scaling else [x for x in scaling.values() if isinstance(x, dict)]
    for kind in kinds:
        factor = kind.get("factor") or 1.0
        if kind.get("rope_type") == "yarn":
            longest = max(longest, int((kind.get("original_max_position_embeddings") or longest) * factor))
        elif kind.get("rope_type") in ("linear", "dynamic"):
            longest = int(longest * factor)
    return longest or 2048
