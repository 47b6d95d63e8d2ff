"""A text through a model, chunk by chunk, as llama.cpp's own tools do it.

The text is cut into chunks of ``n_ctx`` tokens; of each the first is BOS where the vocabulary
adds one; the cache of keys and values is empty when a chunk begins. Sources:
``tools/imatrix/imatrix.cpp`` and ``tools/perplexity/perplexity.cpp`` of llama.cpp b11549.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.runtime.failure import EngineError
from mbuild.runtime.statistics.binding import Watch, open_library

Logits = NDArray[np.float32]


class TextChunks(NamedTuple):
    """A text cut into chunks of tokens (int32), and the bytes of it that they are."""

    tokens: list[NDArray[np.int32]]
    nbytes: int

    def done(self, number: int) -> dict[str, int]:
        """The bytes that are done when so many chunks are, of how many."""
        return {"done": self.nbytes * number // len(self.tokens), "total": self.nbytes}


class Network:
    """A loaded model and a context of ``n_ctx`` tokens; :meth:`close` frees both."""

    def __init__(self, path: str, n_ctx: int, threads: int, watch: Any = None) -> None:
        """``watch``: called with the nodes of the graph. Raises :class:`EngineError`."""
        self._library = library = open_library()
        self._model = self._context = None
        library.llama_log_set(_silent(), None)
        library.llama_backend_init()
        params = library.llama_model_default_params()
        self._model = library.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise EngineError("the model cannot be loaded for computing on it")
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self.words = int(library.llama_vocab_n_tokens(self._vocabulary))
        context = library.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = n_ctx
        context.n_threads = context.n_threads_batch = threads
        self._watch = Watch(watch) if watch is not None else Watch()
        context.cb_eval = self._watch
        self._context = library.llama_init_from_model(self._model, context)
        if not self._context:
            self.close()
            raise EngineError("there is no memory for a context of the model")
        self.n_ctx = n_ctx
        self._batch = library.llama_batch_init(n_ctx, 0, 1)

    def tokens(self, text: bytes, *, special: bool = False) -> NDArray[np.int32]:
        """The tokens of a text; BOS stands at its beginning where the vocabulary adds it."""
        count = len(text) + 8
        found = np.empty(count, np.int32)
        number = self._library.llama_tokenize(
            self._vocabulary, text, len(text), found.ctypes.data, count, True, special
        )
        if number < 0:
            raise EngineError("the text cannot be cut into tokens")
        return found[:number]

    def chunks(self, text: bytes, most: int, *, special: bool = False) -> TextChunks:
        """The chunks of a text, at most so many (0: all).

        Raises :class:`UsageError` for a text of less than two chunks, as llama.cpp's tools do.
        """
        tokens = self.tokens(text, special=special)
        if len(tokens) < 2 * self.n_ctx:
            raise UsageError(
                f"the text has {len(tokens)} tokens, and {2 * self.n_ctx} are needed",
                hint="give a longer text: hundreds of chunks of 512 tokens are customary",
            )
        count = len(tokens) // self.n_ctx
        count = min(count, most) if most else count
        found = [tokens[n * self.n_ctx : (n + 1) * self.n_ctx].copy() for n in range(count)]
        if self._library.llama_vocab_get_add_bos(self._vocabulary):
            bos = self._library.llama_vocab_bos(self._vocabulary)
            for chunk in found:
                chunk[0] = bos
        return TextChunks(found, len(text) * count * self.n_ctx // len(tokens))

    def run(self, chunk: NDArray[np.int32], first: int = 0) -> Iterator[Logits]:
        """Run one chunk; the logits (float32, one a word) of each position from ``first`` on."""
        library, batch = self._library, self._batch
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        batch.n_tokens = len(chunk)
        for n, token in enumerate(chunk):
            batch.token[n], batch.pos[n] = int(token), n
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, 0
            batch.logits[n] = n >= first
        if library.llama_decode(self._context, batch):
            raise EngineError("the model cannot be computed on this text")
        for n in range(first, len(chunk)):
            row = library.llama_get_logits_ith(self._context, n)
            yield np.ctypeslib.as_array(row, (self.words,))

    def close(self) -> None:
        """Free the context and the model."""
        if self._context:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._context = self._model = None


_LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


def _say_nothing(level: int, text: bytes, data: object) -> None:
    """llama.cpp's log has no reader here."""


_NOTHING = _LOG(_say_nothing)


def _silent() -> Any:
    return c.cast(_NOTHING, c.c_void_p)
