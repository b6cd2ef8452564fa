"""Loads a GGUF file in llama.cpp: see :mod:`paretune.engines.runner`.

The library inside ``xllamacpp`` exports llama.cpp's own C interface (``llama.h``), which gives logits at every position
of a text; its Python interface gives only those of generated tokens. Structures that are passed by value are filled
by the library's own defaults, and the few fields that are set here are first held against these defaults, so that
another layout is refused and not misread.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

Job = dict[str, Any]
_POINTER = ctypes.c_void_p
_TAIL_BYTES = 1024
"""More than any of the structures has: what is copied beyond its end is never read."""


class ModelParameters(ctypes.Structure):
    """``struct llama_model_params``, whatever it is: none of it is set here."""

    _fields_ = (("all", ctypes.c_uint8 * _TAIL_BYTES),)


class ContextParameters(ctypes.Structure):
    """``struct llama_context_params`` as far as it is set here."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("n_rs_seq", ctypes.c_uint32),
        ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("ctx_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        ("rope_and_yarn", ctypes.c_float * 6),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", _POINTER),
        ("cb_eval_user_data", _POINTER),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("rest", ctypes.c_uint8 * _TAIL_BYTES),
    )


_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_rs_seq": 0, "n_outputs_max": 0,
    "flash_attn_type": -1, "defrag_thold": -1.0, "type_k": 1, "type_v": 1,
}  # fmt: skip
"""That ``llama_context_default_params`` documents."""
_CACHE_TYPES = {"q8_0": 8}
"""Of ``enum ggml_type``."""
_FLASH_ATTENTION = 1
"""Values in blocks are read by flash attention alone."""


class Batch(ctypes.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_POINTER, _POINTER)),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (_POINTER, (ctypes.c_char_p, ModelParameters)),
    "llama_init_from_model": (_POINTER, (_POINTER, ContextParameters)),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_vocab_n_tokens": (ctypes.c_int32, (_POINTER,)),
    "llama_get_memory": (_POINTER, (_POINTER,)),
    "llama_memory_clear": (None, (_POINTER, ctypes.c_bool)),
    "llama_batch_init": (Batch, (ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)),
    "llama_decode": (ctypes.c_int32, (_POINTER, Batch)),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), (_POINTER,)),
    "llama_batch_free": (None, (Batch,)),
    "llama_free": (None, (_POINTER,)),
    "llama_model_free": (None, (_POINTER,)),
    "llama_tokenize": (
        ctypes.c_int32,
        (
            _POINTER, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32,
            ctypes.c_bool, ctypes.c_bool,
        ),
    ),
    "llama_token_to_piece": (
        ctypes.c_int32,
        (_POINTER, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_bool),
    ),
}  # fmt: skip
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)


def _keep_errors(level: int, text: bytes, data: int) -> None:
    """Llama.cpp's messages: errors (4) go to standard error, the rest nowhere."""
    del data
    if level == 4:
        sys.stderr.write(text.decode("utf-8", "replace"))


_LOGGER = _LOG(_keep_errors)
"""Kept here: the library calls it as long as it lives."""


class LlamaModel:
    """A GGUF file; ``options`` may have ``cache``: the type of keys and values (``q8_0``)."""

    def __init__(self, job: Job, tokens: int) -> None:
        file = self._file = job["model"]
        library = self._library = _llama_library()
        library.llama_log_set(ctypes.cast(_LOGGER, _POINTER), None)
        library.llama_backend_init()
        self._model = library.llama_model_load_from_file(file.encode(), library.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {file}")
        self._words = library.llama_model_get_vocab(self._model)
        self.vocabulary = int(library.llama_vocab_n_tokens(self._words))
        parameters = self._parameters(tokens, job["threads"], job["options"].get("cache"))
        self._context = library.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise SystemExit(f"llama.cpp cannot make a context of {tokens} tokens for {file}")
        self._tokens, self._seen = tokens, 0
        self._batch = library.llama_batch_init(tokens, 0, 1)

    def _parameters(self, tokens: int, threads: int, cache: str | None) -> ContextParameters:
        found: ContextParameters = self._library.llama_context_default_params()
        told = {name: getattr(found, name) for name in _DEFAULTS}
        if told != _DEFAULTS or not 0 < found.n_threads <= 512:
            raise SystemExit(f"this llama.cpp has other parameters than are known here: {told}")
        found.n_ctx = found.n_batch = found.n_ubatch = tokens
        found.n_threads = found.n_threads_batch = threads
        if cache is not None:
            found.type_k = found.type_v = _CACHE_TYPES[cache]
            found.flash_attn_type = _FLASH_ATTENTION
        return found

    def __del__(self) -> None:
        if hasattr(self, "_batch"):
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
            self._library.llama_model_free(self._model)

    def clear(self) -> None:
        """Forget the sequence."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._seen = 0

    def logits(self, ids: np.ndarray, every: bool = True) -> np.ndarray:
        """Logits after ``ids``, ``(tokens, vocabulary)``: of every one or of the last."""
        if not 0 < len(ids) <= self._tokens - self._seen:
            # Beyond these the batch's arrays end, and what is written there belongs to somebody else.
            raise SystemExit(
                f"{len(ids)} tokens from position {self._seen} do not fit a context of {self._tokens} tokens for"
                f" {self._file}: ask for a longer context, or give a shorter text"
            )
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = int(token)
            batch.pos[index] = self._seen + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = int(every or index == len(ids) - 1)
        status = self._library.llama_decode(self._context, batch)
        if status:
            raise SystemExit(f"llama_decode answered {status}")
        self._seen += len(ids)
        found = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, shape=(len(ids) if every else 1, self.vocabulary)).copy()

    def tokenize(self, text: str) -> np.ndarray:
        """Token ids of a text, with the tokens that the file says begin a text."""
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        count = self._library.llama_tokenize(self._words, raw, len(raw), room, len(room), True, True)
        if count < 0:
            raise SystemExit(f"llama.cpp cannot tokenize {text!r}")
        return np.array(room[:count], np.int64)

    def text(self, ids: list[int]) -> str:
        """The text of tokens."""
        pieces = b""
        for token in ids:
            room = ctypes.create_string_buffer(512)
            count = self._library.llama_token_to_piece(self._words, token, room, len(room), 0, False)
            pieces += room.raw[: max(0, count)]
        return pieces.decode("utf-8", "replace")


def _llama_library() -> ctypes.CDLL:
    import xllamacpp

    module: Any = sys.modules.get("xllamacpp.xllamacpp", xllamacpp)
    library = ctypes.CDLL(module.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


load = LlamaModel
