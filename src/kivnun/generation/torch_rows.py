"""Rows of a causal language model in torch: each begins and ends alone, all that answer take the common step together.

A row's prompt is computed alone, in pieces if it is long; with its first step it joins rows of about its length in a
batch of `models.row_cache`, whose rows each step writes one column for. A few kinds of adapters put learned tokens
before every text, in columns that cannot be aligned at the right; rows of such a model are computed one after another.

Shapes: B rows of a step, G of them in one batch, T tokens, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kivnun.errors import UserError
from kivnun.generation.adapter_list import unknown_adapter
from kivnun.generation.engine import logits_not_finite
from kivnun.generation.row_groups import FIRST_WIDTH, RowGroup, RowGroups, TorchRow
from kivnun.generation.row_model import Prefix, Row
from kivnun.models.attention import probe_tolerance
from kivnun.models.row_cache import (
    Pairs,
    RowCache,
    empty_cache,
    fill_cache,
    require_plain_cache,
    unsupported_rows,
)
from kivnun.models.types import Model
from kivnun.models.virtual_tokens import context_tokens, virtual_tokens_of

# Of the longer one of the two rows that every model is tried with.
PROBE_TOKENS = 6


class ChangingAdapters(Protocol):
    """Named adapters that come and go on a torch model: `kivnun.methods.many_lora.ManyLora`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that there are."""
        ...

    def add(self, name: str, folder: Path) -> None:
        """Add one that a training wrote."""
        ...

    def remove(self, name: str) -> None:
        """Take one off."""
        ...

    def applied(self, rows: Sequence[str | None]) -> AbstractContextManager[None]:
        """Within this, row k of a batch uses the adapter `rows[k]`, None the base model."""
        ...


@dataclass(eq=False)
class TorchPrefix:
    """What was computed for some tokens.

    Attributes:
        num_tokens: How many.
        num_bytes: Of memory.
        pairs: Keys and values.
    """

    num_tokens: int
    num_bytes: int
    pairs: Pairs


class TorchRows:
    """`RowModel` over a causal language model in torch.

    Args:
        model: In eval mode, on its device.
        name: Shown in errors and reports.
        adapters: Adapters on this very model, where it may have some.
        first_width: Rows of up to so many tokens share a batch, whatever their lengths; see `row_groups`.

    Raises:
        UserError: `stage-unsupported` for a model that keeps more of a text than keys and values, or whose rows depend
            on the rows beside them; `logits-not-finite`.
    """

    def __init__(
        self,
        model: Model,
        *,
        name: str = "torch",
        adapters: ChangingAdapters | None = None,
        first_width: int = FIRST_WIDTH,
    ) -> None:
        if model.training:
            raise ValueError("the model must be in eval mode: dropout would change its answers")
        if first_width < PROBE_TOKENS:
            raise ValueError(f"the rows of the probe must share a batch, so first_width is at least {PROBE_TOKENS}")
        require_plain_cache(model)
        self.name = name
        self._model = model
        self._adapters = adapters
        # A few architectures have no position ids; asked once, at the foreign border.
        self._model_inputs = frozenset(inspect.signature(model.forward).parameters)
        self._num_tokens = len(cast("nn.Embedding", model.get_input_embeddings()).weight)
        virtual = virtual_tokens_of(model)
        self._num_virtual = 0 if virtual is None else virtual.num_tokens
        self._groups = RowGroups(lambda: empty_cache(model), first_width)
        self._bytes_per_token = _probe(self, model)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None for no limit."""
        return context_tokens(self._model)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that rows may name."""
        return () if self._adapters is None else self._adapters.names

    @property
    def num_bytes(self) -> int:
        """Memory of the weights; LoRA adapters, a hundredth of them each, are not counted."""
        tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers())}
        return sum(tensors.values())

    @property
    def bytes_per_token(self) -> int:
        """Memory that a row's cache takes for each token."""
        return self._bytes_per_token

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """For how many tokens rows that step side by side take memory, padding included.

        Args:
            lengths: Of the rows, in tokens.
        """
        # Rows of a model with learned tokens stay alone.
        return sum(lengths) if self._num_virtual else self._groups.padded_tokens(lengths)

    def add_adapter(self, name: str, source: str) -> None:
        """Make an adapter usable, without stopping rows of others.

        Args:
            name: What rows call it.
            source: Folder that it is read from.

        Raises:
            UserError: adapter-invalid, adapter-taken.
        """
        if self._adapters is None:
            hint = "open the adapter as a model of its own"
            raise UserError("adapter-invalid", f"{self.name} is a model that takes no adapters", hint=hint)
        self._adapters.add(name, Path(source))

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no row uses.

        Raises:
            UserError: adapter-unknown.
        """
        self._require_known(name)
        cast("ChangingAdapters", self._adapters).remove(name)

    def begin(self, *, adapter: str | None = None, kept: Sequence[Prefix] = ()) -> TorchRow:
        """An empty row, or one that begins with what others computed with the same adapter.

        Args:
            adapter: What it answers with.
            kept: By `keep` of this very model, the first from token 0 and each from where the one before it stops.

        Raises:
            UserError: adapter-unknown.
        """
        self._require_known(adapter)
        cache = empty_cache(self._model)
        if kept:
            fill_cache(cache, [cast("TorchPrefix", piece).pairs for piece in kept])
        return TorchRow(sum(piece.num_tokens for piece in kept), adapter, cache)

    def feed(self, row: Row, token_ids: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append tokens of the prompt to a row, at once; a long prompt comes in several calls.

        Args:
            row: Takes part in no step yet.
            token_ids: One or more.
            every: Whether to give the logits after each of them.

        Returns:
            Finite logits after the last of them, shape (V,), or after each, shape (tokens, V).

        Raises:
            UserError: logits-not-finite, prompt-invalid for a token that there is not.
        """
        own = cast("TorchRow", row)
        if own.cache is None:
            raise ValueError("a row that takes part in steps is fed by them")
        count = len(token_ids)
        # On a GPU such a token would be the end of every answer, not of this one alone.
        if not 0 <= min(token_ids) <= max(token_ids) < self._num_tokens:
            problem = f"a prompt holds a token that {self.name} does not have; it has 0 to {self._num_tokens - 1}"
            raise UserError("prompt-invalid", problem, hint="encode the prompt with this model's own tokenizer")
        positions = torch.arange(own.num_tokens, own.num_tokens + count, device=self._model.device)
        mask = torch.ones(1, own.num_tokens + count, dtype=torch.long, device=self._model.device)
        ids = torch.tensor([token_ids], device=self._model.device)
        logits_TV = self._forward(own.cache, ids, positions[None], mask, [own.adapter], count if every else 1)[0]
        own.num_tokens += count
        if not bool(logits_TV.isfinite().all()):
            raise logits_not_finite(self.name)
        logits = logits_TV.cpu().numpy()
        return logits if every else logits[-1]

    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to each of some rows.

        Args:
            rows: B of them, each fed or begun with what was kept, mixed in adapters and lengths; others wait.
            tokens: One each.

        Returns:
            Logits after each of them, shape (B, V); a row whose logits are not finite is the caller's to end.
        """
        wanted = cast("Sequence[TorchRow]", rows)
        if self._num_virtual:
            return np.stack([self._step_alone(row, token) for row, token in zip(wanted, tokens, strict=True)])
        groups = self._groups.gather(wanted)
        place = {id(row): number for number, row in enumerate(wanted)}
        places = [[place[id(row)] for row in group.rows] for group in groups]
        # A GPU is given all of them before the first is waited for.
        stepped = [
            self._step_group(group, [tokens[number] for number in numbers])
            for group, numbers in zip(groups, places, strict=True)
        ]
        if places == [list(range(len(wanted)))]:
            return stepped[0].cpu().numpy()
        logits_BV = np.empty((len(wanted), stepped[0].shape[1]), dtype=np.float32)
        for numbers, logits_GV in zip(places, stepped, strict=True):
            logits_BV[numbers] = logits_GV.cpu().numpy()
        return logits_BV

    def keep(self, row: Row, start: int, stop: int) -> TorchPrefix:
        """A copy of what was computed for the tokens from `start` to before `stop` of a row.

        Args:
            row: Takes part in no step yet.
            start: Its first token.
            stop: Where they end; the row holds at least so many tokens.
        """
        own = cast("TorchRow", row)
        if own.cache is None or not 0 <= start < stop <= own.num_tokens:
            raise ValueError(f"tokens {start} to {stop} of a row with {own.num_tokens} cannot be kept")
        # Learned tokens stand before the first one and belong to it.
        first = 0 if start == 0 else start + self._num_virtual
        pairs = own.cache.copy_columns(0, first, stop + self._num_virtual)
        return TorchPrefix(stop - start, sum(keys.nbytes + values.nbytes for keys, values in pairs), pairs)

    def end(self, row: Row) -> None:
        """Give a row's memory free."""
        own = cast("TorchRow", row)
        own.cache = None
        self._groups.remove(own)

    def _step_group(self, group: RowGroup, tokens: Sequence[int]) -> Tensor:
        """Logits of the rows of one batch, shape (G, V)."""
        batch, device = group.batch, self._model.device
        batch.make_room()
        lengths_G1 = torch.tensor(batch.lengths, device=device)[:, None]
        width = max(batch.lengths)
        mask_GT = (torch.arange(width + 1, device=device) >= width - lengths_G1).long()
        names = [row.adapter for row in group.rows]
        ids_G1 = torch.tensor(tokens, device=device)[:, None]
        logits_G1V = self._forward(batch.cache, ids_G1, lengths_G1, mask_GT, names, 1)
        batch.lengths = [length + 1 for length in batch.lengths]
        for row in group.rows:
            row.num_tokens += 1
        return logits_G1V[:, 0]

    def _step_alone(self, row: TorchRow, token: int) -> NDArray[np.float32]:
        try:
            return self.feed(row, [token])
        except UserError:
            # As in a batch: what is not finite is the caller's to find.
            return np.full(self._model.config.get_text_config().vocab_size, np.nan, dtype=np.float32)

    # Not inference_mode: a rotary cache made under it could not be used by a training step that follows.
    @torch.no_grad()
    def _forward(
        self,
        cache: RowCache,
        ids_BT: Tensor,
        position_ids_BT: Tensor,
        mask: Tensor,
        names: Sequence[str | None],
        num_logits: int,
    ) -> Tensor:
        """Logits of the last tokens, shape (B, num_logits, V)."""
        optional: dict[str, Tensor | int] = {"position_ids": position_ids_BT, "logits_to_keep": num_logits}
        with nullcontext() if self._adapters is None else self._adapters.applied(names):
            output = self._model(
                input_ids=ids_BT,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **{name: value for name, value in optional.items() if name in self._model_inputs},
            )
        return output.logits[:, -num_logits:].float()

    def _require_known(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            raise unknown_adapter(adapter, self.adapters, self.name)


def _probe(rows: TorchRows, model: Model) -> int:
    """Bytes of a token in the cache, once it is known that rows of two lengths step together as each would alone.

    Raises:
        UserError: `stage-unsupported` where they do not; `logits-not-finite`.
    """
    vocab_size = model.config.get_text_config().vocab_size
    ids = [number * 7919 % vocab_size for number in range(1, PROBE_TOKENS + 4)]
    short, long = ids[:3], ids[3:]
    try:
        wanted_BV = np.stack([rows.feed(rows.begin(), tokens) for tokens in (short, long)])
        pair = rows.begin(), rows.begin()
        rows.feed(pair[0], short[:-1])
        for piece in (long[:2], long[2:-1]):
            rows.feed(pair[1], piece)
        num_bytes = cast("RowCache", pair[1].cache).bytes_per_column
        found_BV = rows.step(pair, [short[-1], long[-1]])
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise unsupported_rows(model, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    for row in pair:
        rows.end(row)
    error = float(np.abs(found_BV - wanted_BV).max() / np.abs(wanted_BV).max())
    if not (num_bytes and error <= probe_tolerance(model)):
        raise unsupported_rows(model, f"their answers depend on the rows beside them (probe differs by {error:.1e})")
    return num_bytes
