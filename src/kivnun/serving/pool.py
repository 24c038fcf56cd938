"""The models in memory: loaded when asked for, forgotten when room is needed, each base once for all its adapters."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from kivnun.data.encode import Encoder
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.generation.row_model import RowModel
from kivnun.serving.answers import Asked, BusyError, ModelAddress, Receive, Running
from kivnun.serving.failures import Log, quiet
from kivnun.serving.lane import Lane
from kivnun.serving.opening import (
    Opening,
    TextSide,
    find_base,
    load_rows,
    own_base,
    plan_opening,
    read_text_side,
)
from kivnun.serving.scheduler import Scheduler
from kivnun.training.device import pick_device
from kivnun.training.process_memory import free_memory_bytes

# Of the memory that weights leave: beginnings of prompts, and answers on their way, whose buffers grow by doubling.
PREFIX_SHARE, ROW_SHARE = 0.25, 0.4
# What weights should leave of the whole: for less than this, models that nobody asks are forgotten.
CACHE_SHARE = 0.2
# Of what is free when the server starts; the rest is for the system and for loading.
OWN_SHARE = 0.8
BUSY_SECONDS = 2.0


@dataclass(frozen=True)
class ModelFacts:
    """A model in memory.

    Attributes:
        name: Of the base, or of a tuned model that has none in common with others.
        engine: What computes it.
        number_format: Of its weights.
        num_bytes: Of memory, its adapters included.
        load_seconds: How long it took to load.
        adapters: Milliseconds that adding each of its adapters took, by name.
        running: Answers on their way.
        waiting: Answers that wait.
    """

    name: str
    engine: str
    number_format: str
    num_bytes: int
    load_seconds: float
    adapters: tuple[tuple[str, float], ...]
    running: int
    waiting: int


@dataclass(frozen=True)
class PoolFacts:
    """What is in memory.

    Attributes:
        models: Each of them.
        running: Answers on their way.
        waiting: Answers that wait.
        memory_bytes: The limit.
        model_bytes: What the models take of it.
        prefix_bytes: What beginnings of prompts take of it.
    """

    models: tuple[ModelFacts, ...]
    running: int
    waiting: int
    memory_bytes: int
    model_bytes: int
    prefix_bytes: int


@dataclass(eq=False)
class _Base:
    """What is loaded once for all of its adapters."""

    opening: Opening
    rows: RowModel
    lane: Lane
    weight_bytes: int
    load_seconds: float
    models: dict[ModelAddress, "OpenModel"] = field(default_factory=dict[ModelAddress, "OpenModel"])
    adapter_bytes: dict[str, int] = field(default_factory=dict[str, int])
    adapter_seconds: dict[str, float] = field(default_factory=dict[str, float])
    # Those that are opening the base or an adapter of it, by adapter: what they found must not go meanwhile.
    pins: Counter[str | None] = field(default_factory=Counter[str | None])
    adding: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + sum(self.adapter_bytes.values())

    @property
    def last_used(self) -> float:
        return max((model.last_used for model in self.models.values()), default=0.0)

    def facts(self) -> ModelFacts:
        """What is told of it."""
        dtype = self.opening.dtype
        return ModelFacts(
            self.rows.name,
            self.opening.address.engine,
            "as exported" if dtype is None else str(dtype).removeprefix("torch."),
            self.num_bytes,
            round(self.load_seconds, 3),
            tuple((name, round(1000 * seconds, 1)) for name, seconds in self.adapter_seconds.items()),
            self.lane.num_active,
            len(self.lane.waiting),
        )

    def used_at(self, adapter: str) -> float:
        """When an adapter was last used."""
        times = (model.last_used for address, model in self.models.items() if str(address.tuned) == adapter)
        return max(times, default=0.0)


class OpenModel:
    """A model that can be asked.

    Attributes:
        name: Shown in errors and reports.
        encoder: Its tokenizer.
        template: How prompts are written.
        stop_ids: Tokens that end an answer.
        context_tokens: Most tokens of prompt and answer together; None for no limit.
        last_used: When it was last opened or asked.
    """

    def __init__(self, scheduler: Scheduler, lane: Lane, opening: Opening, text_side: TextSide) -> None:
        self.name = lane.model.name
        self.encoder: Encoder = text_side.encoder
        self.template: PromptTemplate = text_side.template
        self.stop_ids = text_side.stop_ids
        self.context_tokens = lane.model.context_tokens
        self.last_used = time.monotonic()
        self._scheduler, self._lane, self._adapter = scheduler, lane, opening.adapter

    def ask(self, asked: Asked, receive: Receive) -> Running:
        """Ask for one answer; never waits.

        Args:
            asked: What is wanted.
            receive: Called by the compute thread with every token and at last with the end or the error; it must
                return at once.

        Raises:
            UserError: `prompt-invalid` for a prompt that is empty or leaves no room for an answer.
            BusyError: Too many answers wait, or the model has just been taken out of memory.
        """
        self.last_used = time.monotonic()
        return self._scheduler.ask(self._lane, self._adapter, asked, receive)

    def after_step(self, function: Callable[[], None]) -> None:
        """Call a function once, when everything of this step has been told; only for receivers.

        Args:
            function: Returns at once; given twice, it is called once.
        """
        self._scheduler.after_step(function)


class ModelPool:
    """The models in memory and the thread that computes them.

    Args:
        max_rows: Most answers of one model side by side.
        max_waiting: Most answers that wait for a place, of all models.
        memory_bytes: Most memory for weights and caches; None for most of what is free now.
        log: Takes `model_loaded`, `adapter_added`, `model_evicted` and what fails unexpectedly.
    """

    def __init__(
        self, *, max_rows: int = 64, max_waiting: int = 256, memory_bytes: int | None = None, log: Log = quiet
    ) -> None:
        self._memory_bytes = int(free_memory_bytes(pick_device()) * OWN_SHARE) if memory_bytes is None else memory_bytes
        self._log = log
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._by_address: dict[ModelAddress, _Base] = {}
        self._opening: dict[ModelAddress, Future[OpenModel]] = {}
        self._folders: dict[tuple[str, str], Path] = {}
        self._lock = threading.Lock()
        # One at a time makes room and loads; models that are in memory answer meanwhile.
        self._making_room = threading.Lock()
        # What was counted last is what holds.
        self._sharing = threading.Lock()
        self._scheduler = Scheduler(max_rows=max_rows, max_waiting=max_waiting, log=log)
        self._share_memory()

    def loaded(self, address: ModelAddress) -> OpenModel | None:
        """The model of an address if it is in memory; never waits.

        Args:
            address: Of the model.
        """
        with self._lock:
            base = self._by_address.get(address)
            model = None if base is None else base.models[address]
        if model is not None:
            model.last_used = time.monotonic()
        return model

    def open(self, address: ModelAddress) -> OpenModel:
        """The model of an address, loaded if it has to be; who comes meanwhile waits for the same load.

        Args:
            address: Of the model.

        Raises:
            UserError: `model-missing`, `model-invalid`, `adapter-invalid`, `stage-unsupported`, `model-too-large`.
            BusyError: Its memory is taken by models that are answering.
        """
        found = self.loaded(address)
        if found is not None:
            return found
        with self._lock:
            base = self._by_address.get(address)
            if base is not None:
                return base.models[address]
            future = self._opening.get(address)
            is_mine = future is None
            if future is None:
                future = self._opening[address] = Future()
        if not is_mine:
            return future.result()
        try:
            future.set_result(self._open(address))
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._opening[address]
        return future.result()

    def facts(self) -> PoolFacts:
        """What is in memory, and who waits."""
        with self._lock:
            models = tuple(base.facts() for base in self._bases.values())
        return PoolFacts(
            models,
            sum(model.running for model in models),
            sum(model.waiting for model in models),
            self._memory_bytes,
            sum(model.num_bytes for model in models),
            self._scheduler.prefixes.num_bytes,
        )

    def close(self) -> None:
        """End every answer, and forget the models."""
        self._scheduler.close()
        with self._lock:
            self._bases.clear()
            self._by_address.clear()

    def _open(self, address: ModelAddress) -> OpenModel:
        folder = None if address.tuned is None else own_base(address.tuned)
        opening = plan_opening(address, folder or self._find_base(address))
        text_side = read_text_side(opening)
        base = self._pin(opening)
        try:
            if opening.adapter is not None:
                self._add_adapter(base, opening.adapter, address)
            model = OpenModel(self._scheduler, base.lane, opening, text_side)
            with self._lock:
                base.models[address] = model
                self._by_address[address] = base
        finally:
            with self._lock:
                base.pins[opening.adapter] -= 1
        return model

    def _find_base(self, address: ModelAddress) -> Path:
        """The folder of a base model; a large one is hashed by what finds it, so that it is looked for once."""
        key = (address.base, address.engine)
        with self._lock:
            found = self._folders.get(key)
        if found is None or not found.is_dir():
            found = find_base(address.base, address.engine)
            with self._lock:
                self._folders[key] = found
        return found

    def _pin(self, opening: Opening) -> _Base:
        """What is loaded for an address; it stays until its pin is taken off."""
        base = self._pin_loaded(opening)
        if base is not None:
            return base
        with self._making_room:
            base = self._pin_loaded(opening)
            if base is not None:
                return base
            self._make_room(opening.num_bytes, opening.name)
            started = time.perf_counter()
            rows = load_rows(opening)
            seconds = time.perf_counter() - started
            base = _Base(opening, rows, self._scheduler.add(rows), rows.num_bytes, seconds)
            with self._lock:
                base.pins[opening.adapter] += 1
                self._bases[opening.key] = base
            self._share_memory()
        self._log("model_loaded", {"model": rows.name, "bytes": base.weight_bytes, "seconds": seconds})
        return base

    def _pin_loaded(self, opening: Opening) -> _Base | None:
        with self._lock:
            base = self._bases.get(opening.key)
            if base is not None:
                base.pins[opening.adapter] += 1
        return base

    def _add_adapter(self, base: _Base, adapter: str, address: ModelAddress) -> None:
        with base.adding:
            if adapter in base.adapter_bytes:
                return
            started = time.perf_counter()
            # Its matrices, and once more where they stand beside those of others.
            num_bytes = 2 * sum(path.stat().st_size for path in Path(adapter).glob("*.safetensors"))
            with self._making_room:
                # One that was about to go stays where it was asked for after all.
                if adapter in base.adapter_bytes:
                    return
                self._make_room(num_bytes, base.rows.name)
            self._scheduler.call(lambda: base.rows.add_adapter(adapter, adapter))
            self._scheduler.restore(base.lane, adapter)
            seconds = time.perf_counter() - started
            with self._lock:
                base.adapter_bytes[adapter], base.adapter_seconds[adapter] = num_bytes, seconds
            self._share_memory()
        self._log("adapter_added", {"model": address.base, "adapter": adapter, "milliseconds": 1000 * seconds})

    def _make_room(self, num_bytes: int, name: str) -> None:
        """Forget what nobody asks, the least recently used first, until so much more fits, and caches beside it."""
        if num_bytes > self._memory_bytes:
            gib = f"{num_bytes / 2**30:.1f} GiB, and the server may use {self._memory_bytes / 2**30:.1f} GiB"
            hint = "give the server more memory, or serve a smaller or an int4 form of the model"
            raise UserError("model-too-large", f"{name} needs {gib}", hint=hint)
        reserve = int(self._memory_bytes * CACHE_SHARE)
        while self._model_bytes() + num_bytes + reserve > self._memory_bytes:
            if not self._evict_one():
                break
        if self._model_bytes() + num_bytes > self._memory_bytes:
            raise BusyError(BUSY_SECONDS)

    def _model_bytes(self) -> int:
        with self._lock:
            return sum(base.num_bytes for base in self._bases.values())

    def _evict_one(self) -> bool:
        """Forget the adapter or the base that was not used for longest, of those that nobody asks now."""
        with self._lock:
            found: list[tuple[float, _Base, str | None]] = []
            for base in self._bases.values():
                found.append((base.last_used, base, None))
                found += [(base.used_at(adapter), base, adapter) for adapter in base.adapter_bytes]
        # Of a base and its latest adapter, which were used at the same time, the adapter goes first.
        found.sort(key=lambda each: (each[0], each[2] is None))
        return any(self._evict(base, adapter) for _, base, adapter in found)

    def _evict(self, base: _Base, adapter: str | None) -> bool:
        """Forget a base, or one of its adapters; False where it is opened or asked right now."""
        with self._lock:
            if base.pins.total() if adapter is None else base.pins[adapter]:
                return False
            # Out of sight first, so that nobody finds what is about to go.
            hidden = {each: model for each, model in base.models.items() if adapter in (None, str(each.tuned))}
            for address in hidden:
                del base.models[address], self._by_address[address]
            num_bytes = 0 if adapter is None else base.adapter_bytes.pop(adapter)
            if adapter is None:
                del self._bases[base.opening.key]
        is_gone = self._scheduler.retire(base.lane, adapter)
        with self._lock:
            if is_gone and adapter is not None:
                del base.adapter_seconds[adapter]
            if not is_gone:
                base.models.update(hidden)
                self._by_address.update(dict.fromkeys(hidden, base))
                if adapter is None:
                    self._bases[base.opening.key] = base
                else:
                    base.adapter_bytes[adapter] = num_bytes
        # In any case: another thread may have shared while this one was out of sight.
        self._share_memory()
        if is_gone:
            self._log("model_evicted", {"model": base.rows.name, "adapter": adapter})
        return is_gone

    def _share_memory(self) -> None:
        """What weights leave is for the caches."""
        with self._sharing:
            left = max(0, self._memory_bytes - self._model_bytes())
            self._scheduler.share_memory(row_bytes=int(left * ROW_SHARE), prefix_bytes=int(left * PREFIX_SHARE))
