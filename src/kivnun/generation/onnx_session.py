"""A session of bare onnxruntime over a `RowGraph`, which reads and writes keys and values in a cache of ours."""

import os
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
import psutil
from numpy.typing import NDArray

from kivnun.generation.onnx_cache import OnnxCache
from kivnun.generation.onnx_graph import LOGITS, RowGraph, graph_invalid

LOG_FATAL_ONLY = 4
# How threads wait and share work, where others want the cores too. A thread that waits spins only as long as the
# gaps within a step, and blocks between steps; a matrix is cut small enough that a thread which lost its core for a
# while holds up the others little. Measured on two cores, int4, 135M weights, one stream: 140 tokens/s, 130 without
# these, 103 where no thread spins.
THREADS: Mapping[str, str] = {"session.intra_op.spin_duration_us": "200", "session.dynamic_block_base": "4"}
Matrices = Mapping[str, NDArray[np.float32]]


def open_session(graph: RowGraph, num_threads: int | None) -> ort.InferenceSession:
    """Load a graph's weights.

    Args:
        graph: The graph.
        num_threads: Cores that one run may use; None for what the graph asks for, and else for all.

    Raises:
        UserError: model-invalid.
    """
    options = ort.SessionOptions()
    # ONNX Runtime prints errors by itself and throws them too; the exception is enough.
    options.log_severity_level = LOG_FATAL_ONLY
    options.intra_op_num_threads = num_threads or graph.num_threads or count_cores()
    for name, value in THREADS.items():
        options.add_session_config_entry(name, value)
    try:
        return ort.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no ancestor but this
        raise graph_invalid(graph.path.parent, str(error)[:500]) from error


def count_cores() -> int:
    """Cores that this process may use.

    Given a number, ONNX Runtime ties no thread to a core, where it would wait for whoever else runs there: beside busy
    neighbours that took a third of the speed.
    """
    logical = len(os.sched_getaffinity(0))
    return min(psutil.cpu_count(logical=False) or logical, logical)


class BoundRun:
    """Runs over a range of slots, bound to where they lie; good until the cache's memory is another one.

    Args:
        session: The session.
        graph: Its graph.
        cache: Holds the rows.
        slots: The range.
        num_tokens: T, tokens for each slot in one run.
        adapter: Matrices by input, of the adapter that all rows answer with.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        graph: RowGraph,
        cache: OnnxCache,
        slots: range,
        num_tokens: int,
        adapter: Matrices,
    ) -> None:
        self._session, self._binding, self._graph = session, session.io_binding(), graph
        self._adapter = adapter
        self.key = (cache.version, slots, num_tokens)
        self._places = np.arange(num_tokens, dtype=np.int64)
        self._input_ids_BT = np.zeros((len(slots), num_tokens), np.int64)
        self._positions_BT = np.zeros((len(slots), num_tokens), np.int64)
        self._bind_cache(cache, slots)
        self._bind("input_ids", self._input_ids_BT)
        if graph.has_positions:
            self._bind("position_ids", self._positions_BT)
        for name, matrix in adapter.items():
            self._bind(name, matrix)

    def run(self, tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64], mask_tokens: int) -> NDArray[np.float32]:
        """Append tokens to the rows.

        Args:
            tokens_BT: The tokens.
            lengths_B: How many tokens each row holds before.
            mask_tokens: Width of the mask: for a row's first tokens their number, otherwise anything that is no less
                than the longest row will be and no more than a slot's room.

        Returns:
            Logits after each row's last token, shape (B, V), nobody else's.
        """
        self._input_ids_BT[:] = tokens_BT
        np.add(lengths_B[:, None], self._places, out=self._positions_BT)
        # The graph reads the mask's width and the sums of its rows.
        mask_BS = np.zeros((len(lengths_B), mask_tokens), np.int64)
        mask_BS[:, 0] = lengths_B + len(self._places)
        self._bind("attention_mask", mask_BS)
        if len(self._places) > 1:
            # Whether logits come for every token or for the last one alone is the graph's choice.
            self._binding.bind_output(LOGITS, "cpu")
            self._session.run_with_iobinding(self._binding)
            return self._binding.get_outputs()[-1].numpy()[:, -1].copy()
        logits_BTV = np.empty((len(lengths_B), 1, self._graph.vocab_size), np.float32)
        self._binding.bind_output(LOGITS, "cpu", 0, np.float32, logits_BTV.shape, logits_BTV.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return logits_BTV[:, 0]

    def _bind_cache(self, cache: OnnxCache, slots: range) -> None:
        # Past and present are the same memory, in which the attention appends. ONNX Runtime is given addresses alone.
        self._memory = cache.values_NBHSD
        for tensor, past, present in zip(
            cache.values_NBHSD, self._graph.past_names, self._graph.present_names, strict=True
        ):
            held = tensor[slots.start : slots.stop]
            self._bind(past, held)
            self._binding.bind_output(present, "cpu", 0, np.float32, held.shape, held.ctypes.data)

    def _bind(self, name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> None:
        self._binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
