"""A `RowModel` over an exported folder through bare onnxruntime: answers begin and end alone and share their steps.

onnxruntime-genai answers a batch only as a whole and hides padding tokens from the model; here are no batches that
begin together, no padding and no token that is special. Keys and values lie in memory of ours (`onnx_cache.py`), where
the graph appends to them in place. Rows of one step are grouped by their adapter, whose matrices are inputs of the
graph (`kivnun.optimization.onnx_lora`).

Shapes: B rows, V vocabulary, T tokens; N, H, D as in `onnx_cache.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import AdapterFormat

from kivnun.errors import UserError
from kivnun.generation.adapter_list import has_adapters, read_list, require_unchanged, unknown_adapter
from kivnun.generation.engine import logits_not_finite
from kivnun.generation.onnx_cache import OnnxCache, OnnxRow
from kivnun.generation.onnx_graph import read_graph
from kivnun.generation.onnx_session import BoundRun, Matrices, open_session
from kivnun.generation.row_model import Prefix, Row

# Scores of T tokens against all before them are kept at once; longer prompts are read in pieces.
MAX_FEED_TOKENS = 512
FLOAT_BYTES = 4


@dataclass(eq=False)
class OnnxPrefix:
    """A `Prefix`.

    Attributes:
        num_tokens: T.
        num_bytes: Of memory.
        adapter: What it was computed with.
        values: Keys and values of every layer, shape (N, H, T, D).
    """

    num_tokens: int
    num_bytes: int
    adapter: str | None
    values: NDArray[np.float32]


class OnnxRows:
    """`RowModel` over a folder with `genai_config.json` and `model.onnx`.

    Args:
        folder: Made by `kivnun.optimization.onnx.export_onnx` or by onnxruntime-genai's model builder, for the CPU.
        num_threads: Cores that one step may use; None for what the folder asks for, and else for all.
        name: Shown in errors and reports.

    Raises:
        UserError: model-invalid, for a folder that does not load or whose rows cannot share a step.
    """

    def __init__(self, folder: Path, *, num_threads: int | None = None, name: str = "onnx") -> None:
        self.name = name
        self._folder = folder
        self._graph = read_graph(folder)
        self._session = open_session(self._graph, num_threads)
        self._weight_bytes = sum(path.stat().st_size for path in folder.glob(f"{self._graph.path.name}*"))
        self._adapters: dict[str, Matrices] = {}
        self._caches: dict[str | None, OnnxCache] = {}
        self._steps: dict[str | None, BoundRun] = {}

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together."""
        return self._graph.context_tokens

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that rows may name: those of the folder's list as it is now, and those that were added."""
        listed = read_list(self._folder).names if has_adapters(self._folder) else ()
        return tuple(dict.fromkeys((*listed, *self._adapters)))

    @property
    def num_bytes(self) -> int:
        """Memory that weights and loaded adapters take."""
        loaded = sum(matrix.nbytes for matrices in self._adapters.values() for matrix in matrices.values())
        return self._weight_bytes + loaded

    @property
    def bytes_per_token(self) -> int:
        """Memory that a row's cache takes for each token."""
        return len(self._graph.past_names) * self._graph.num_heads * self._graph.head_size * FLOAT_BYTES

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """For how many tokens rows take memory: there is no padding.

        Args:
            lengths: Of the rows, in tokens.
        """
        return sum(lengths)

    def add_adapter(self, name: str, source: str) -> None:
        """Make an adapter usable.

        Args:
            name: What rows call it.
            source: An `.onnx_adapter` file, made for this folder's graph.

        Raises:
            UserError: adapter-invalid, adapter-taken.
        """
        self.add_matrices(name, _read_adapter(Path(source)), source=source)

    def add_matrices(self, name: str, matrices: Matrices, *, source: str) -> None:
        """The same from memory.

        Args:
            name: What rows call it.
            matrices: By input of the graph, as `kivnun.optimization.onnx_lora.fill_places` gives them.
            source: Where they came from, for errors.

        Raises:
            UserError: adapter-invalid, adapter-taken.
        """
        if name in self._adapters:
            raise UserError("adapter-taken", f"{self.name} has an adapter {name!r} already", hint="choose another name")
        unknown = sorted(set(matrices) - self._graph.adapter_names)
        if unknown or not matrices:
            raise UserError(
                "adapter-invalid",
                f"{source} does not fit {self._folder}, whose graph has no places for it",
                hint="make a folder that adapters share with `kivnun generate-adapter`",
                details=unknown[:5],
            )
        self._adapters[name] = {key: np.ascontiguousarray(each, np.float32) for key, each in matrices.items()}

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no row uses; one of the folder's list is read anew when it is asked for again.

        Raises:
            UserError: adapter-unknown.
            ValueError: Where a row uses it.
        """
        if name not in self.adapters:
            raise unknown_adapter(name, self.adapters, self.name)
        if name in self._caches:
            raise ValueError(f"rows of {self.name} answer with the adapter {name!r}")
        self._adapters.pop(name, None)

    def begin(self, *, adapter: str | None = None, kept: Sequence[Prefix] = ()) -> OnnxRow:
        """An empty row, or one that begins with what others computed with the same adapter.

        Args:
            adapter: What it answers with.
            kept: By `keep` of this very model, the first from token 0 and each from where the one before it stops.

        Raises:
            UserError: adapter-unknown; artifact-damaged or adapter-invalid for one whose file cannot be used.
        """
        pieces = [_own_prefix(prefix, adapter) for prefix in kept]
        self._load(adapter)
        graph = self._graph
        if adapter not in self._caches:
            sizes = (len(graph.past_names), graph.num_heads, graph.head_size, graph.context_tokens)
            self._caches[adapter] = OnnxCache(*sizes)
        cache = self._caches[adapter]
        row = cache.add(adapter)
        try:
            cache.require_room(sum(piece.num_tokens for piece in pieces))
        except BaseException:
            # Nobody would end a row that nobody was given.
            self.end(row)
            raise
        for piece in pieces:
            cache.fill(row, row.num_tokens, piece.values)
            row.num_tokens += piece.num_tokens
        return row

    def feed(self, row: Row, token_ids: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append tokens of the prompt to a row.

        Args:
            row: Takes part in no step yet.
            token_ids: One or more.
            every: Whether to give the logits after each of them; they are then computed one by one, for most graphs
                tell only those after the last of several.

        Returns:
            Finite logits after the last of them, shape (V,), or after each, shape (T, V).

        Raises:
            UserError: logits-not-finite; prompt-invalid where they do not fit.
        """
        row = _own(row)
        tokens_T = self._checked(row, token_ids)
        size = 1 if every else MAX_FEED_TOKENS
        pieces = [tokens_T[start : start + size] for start in range(0, len(tokens_T), size)]
        logits = [self._append(row, piece_T) for piece_T in pieces]
        found = np.stack(logits) if every else logits[-1]
        # The extremes are NaN or infinite where any logit is, and no array is made for them.
        if not (math.isfinite(found.max()) and math.isfinite(found.min())):
            raise logits_not_finite(self.name)
        return found

    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to each of some rows.

        Args:
            rows: B of them, each fed before, mixed in adapters and lengths; others wait.
            tokens: One each.

        Returns:
            Logits after each of them, shape (B, V); a row whose logits are not finite is the caller's to end.
        """
        own = [_own(row) for row in rows]
        token_ids_B = np.asarray(tokens, np.int64)
        groups: dict[str | None, list[int]] = {}
        for place, row in enumerate(own):
            groups.setdefault(row.adapter, []).append(place)
        if len(groups) == 1:
            return self._step_group(own, token_ids_B)
        logits_BV = np.empty((len(own), self._graph.vocab_size), np.float32)
        for places in groups.values():
            logits_BV[places] = self._step_group([own[place] for place in places], token_ids_B[places])
        return logits_BV

    def keep(self, row: Row, start: int, stop: int) -> OnnxPrefix:
        """A copy of what was computed for the tokens from `start` to before `stop` of a row.

        Args:
            row: Takes part in no step yet.
            start: Its first token.
            stop: Where they end; the row holds at least so many tokens.
        """
        row = _own(row)
        if not 0 <= start < stop <= row.num_tokens:
            raise ValueError(f"tokens {start} to {stop} of {row.num_tokens} cannot be kept")
        values = self._caches[row.adapter].copy(row, start, stop)
        return OnnxPrefix(stop - start, values.nbytes, row.adapter, values)

    def end(self, row: Row) -> None:
        """Give a row's memory free."""
        row = _own(row)
        cache = self._caches[row.adapter]
        cache.remove(row)
        if not cache.rows:
            del self._caches[row.adapter]
            self._steps.pop(row.adapter, None)

    def _step_group(self, rows: list[OnnxRow], tokens_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """A step of rows with the same adapter."""
        adapter = rows[0].adapter
        cache = self._caches[adapter]
        cache.require_room(1 + max(row.num_tokens for row in rows))
        cache.put_first(rows)
        slots = range(len(rows))
        step = self._steps.get(adapter)
        if step is None or step.key != (cache.version, slots, 1):
            step = self._steps[adapter] = self._bound(cache, slots, 1, adapter)
        order_B = np.array([row.slot for row in rows])
        lengths_B, tokens_of_slots_B1 = np.empty(len(rows), np.int64), np.empty((len(rows), 1), np.int64)
        lengths_B[order_B] = [row.num_tokens for row in rows]
        tokens_of_slots_B1[order_B, 0] = tokens_B
        logits_BV = step.run(tokens_of_slots_B1, lengths_B, 1 + int(lengths_B.max()))
        for row in rows:
            row.num_tokens += 1
        return logits_BV if (order_B == np.arange(len(rows))).all() else logits_BV[order_B]

    def _append(self, row: OnnxRow, tokens_T: NDArray[np.int64]) -> NDArray[np.float32]:
        cache = self._caches[row.adapter]
        total = row.num_tokens + len(tokens_T)
        cache.require_room(total)
        run = self._bound(cache, range(row.slot, row.slot + 1), len(tokens_T), row.adapter)
        logits_BV = run.run(tokens_T[None], np.array([row.num_tokens]), total)
        row.num_tokens = total
        return logits_BV[0]

    def _bound(self, cache: OnnxCache, slots: range, num_tokens: int, adapter: str | None) -> BoundRun:
        matrices: Mapping[str, NDArray[np.float32]] = {} if adapter is None else self._adapters[adapter]
        return BoundRun(self._session, self._graph, cache, slots, num_tokens, matrices)

    def _checked(self, row: OnnxRow, token_ids: Sequence[int]) -> NDArray[np.int64]:
        tokens = np.asarray(token_ids, np.int64)
        if tokens.size == 0:
            raise ValueError("no tokens were given")
        if tokens.min() < 0 or tokens.max() >= self._graph.vocab_size:
            raise _prompt_invalid(self.name, f"tokens are 0 to {self._graph.vocab_size - 1}")
        if row.num_tokens + tokens.size > self._graph.context_tokens:
            raise _prompt_invalid(self.name, f"it may have {self._graph.context_tokens} tokens with its answer")
        return tokens

    def _load(self, adapter: str | None) -> None:
        """Read an adapter of the folder when it is first asked for."""
        if adapter is None or adapter in self._adapters:
            return
        if not has_adapters(self._folder):
            raise unknown_adapter(adapter, tuple(self._adapters), self.name)
        record = read_list(self._folder).find(adapter, self._folder)
        self.add_adapter(adapter, str(require_unchanged(self._folder, record)))


def _own(row: Row) -> OnnxRow:
    if not isinstance(row, OnnxRow) or row.slot < 0:
        raise ValueError("the row is another model's, or it has ended")
    return row


def _own_prefix(prefix: Prefix, adapter: str | None) -> OnnxPrefix:
    if not isinstance(prefix, OnnxPrefix) or prefix.adapter != adapter:
        raise ValueError("a prefix was kept by another model or adapter")
    return prefix


def _read_adapter(path: Path) -> Matrices:
    try:
        values = AdapterFormat.read_adapter(str(path)).get_parameters()  # type: ignore[arg-type] - a text, whatever its stub says
        return {name: np.array(value.numpy()) for name, value in values.items()}
    except Exception as error:  # onnxruntime's errors share no ancestor but this
        raise UserError(
            "adapter-invalid",
            f"{path} is not an adapter of an ONNX model",
            hint="add it to its folder with `kivnun adapters add`",
            details=[str(error)[:300]],
        ) from error


def _prompt_invalid(name: str, detail: str) -> UserError:
    return UserError(
        "prompt-invalid", f"a prompt cannot be answered by {name}: {detail}", hint="shorten the prompt", details=[]
    )
