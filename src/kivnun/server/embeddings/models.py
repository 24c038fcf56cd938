"""What turns texts into vectors for `/embeddings`: named by clients, opened on demand, computed one after another."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from kivnun.errors import UserError
from kivnun.retrieval.builtin import NAME as BUILTIN_NAME
from kivnun.retrieval.builtin import WEIGHTS_NAME, cache_folder
from kivnun.server.callers import Caller
from kivnun.server.errors import ApiError
from kivnun.server.late_pool import wait_for_libraries
from kivnun.server.model_names import find_model
from kivnun.server.service import ServeSettings, Service
from kivnun.serving.answers import BusyError

# Further ones are refused: each may take seconds.
MAX_WAITING = 64
MAX_OPEN = 2
DEFAULT_SPEC = "builtin"
# Models of the hosted service, which are on no machine but theirs; the server's own embedder stands in for them.
HOSTED = re.compile(r"text-embedding-[\w.\-]{1,64}")
_LOCAL_KINDS = ("builtin", "hf", "dir")
_Result = TypeVar("_Result")


class Vectors(Protocol):
    """A model that turns tokens into vectors; no prefix is put before a text.

    Attributes:
        dim: Length of its vectors.
        max_tokens: Most tokens of a text.
        num_words: Size of its vocabulary.
    """

    dim: int
    max_tokens: int
    num_words: int

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, all of them."""
        ...

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors (N, D) of texts in tokens, in their order."""
        ...


class EmbeddingModels:
    """The models in memory and the one thread that computes them.

    Args:
        max_waiting: Most requests that wait or are computed.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._open: OrderedDict[str, Vectors] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "embeddings")
        self._waiting = 0
        self._seconds = 0.1

    async def use(self, source: str, work: Callable[[Vectors], _Result]) -> _Result:
        """What a model gives, once it is its turn; requests that came before go first.

        Args:
            source: As `find_source` gives it.
            work: Runs on the compute thread; not at all if the request was given up before its turn.

        Raises:
            BusyError: Where as many are waiting as may.
            UserError: embedder-missing, model-invalid, and what the work raises.
        """
        if self._waiting >= self._max_waiting:
            raise BusyError(self._waiting * self._seconds)
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(self._compute, source, work))
        finally:
            self._waiting -= 1

    def _compute(self, source: str, work: Callable[[Vectors], _Result]) -> _Result:
        if source not in self._open:
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)
            self._open[source] = open_vectors(source)
        self._open.move_to_end(source)
        started = time.monotonic()
        try:
            return work(self._open[source])
        finally:
            self._seconds += (time.monotonic() - started - self._seconds) / 8


def find_source(session: Session, service: Service, caller: Caller, name: str) -> tuple[str, bool]:
    """Where the embedding model of a name lies.

    Args:
        session: Open for reading.
        service: Of the server.
        caller: Who asks.
        name: As the client calls it.

    Returns:
        An embedder's name or a folder, and whether it only stands in for a model of the hosted service.

    Raises:
        ApiError: 404 `model_not_found`; 400 `model_not_supported` for a model that gives no vectors.
    """
    settings = service.settings
    default = settings.embedding_model or DEFAULT_SPEC
    source = settings.models.get(name)
    if source is None and (name == say_embedder(default) or HOSTED.fullmatch(name)):
        return settings.models.get(default, default), name != say_embedder(default)
    if source is None or not gives_vectors(source):
        find_model(session, service, caller, name)
        message = f"The model `{name}` gives no embeddings: it writes text. Ask for `{say_embedder(default)}`."
        raise ApiError(400, message, param="model", code="model_not_supported")
    return source, False


def find_embedder(settings: ServeSettings) -> str | None:
    """What clients call the server's own embedder; None where it is not on this machine.

    Args:
        settings: Of the server.
    """
    spec = settings.embedding_model or DEFAULT_SPEC
    return say_embedder(spec) if spec in settings.models or _is_here(spec) else None


def _is_here(spec: str) -> bool:
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        return (cache_folder() / BUILTIN_NAME / WEIGHTS_NAME).is_file()
    # What the hub has is fetched when it is first asked for.
    return kind == "hf" or (kind == "dir" and (Path(name).expanduser() / "config.json").is_file())


def say_embedder(spec: str) -> str:
    """What clients call an embedder; no name tells where a folder lies.

    Args:
        spec: As the server was started with: `builtin`, `hf:NAME[@REVISION]`, `dir:FOLDER` or a name of its models.
    """
    kind, _, name = spec.partition(":")
    if kind == "dir":
        return Path(name).resolve().name
    return name.partition("@")[0] if kind == "hf" else spec


def gives_vectors(source: str) -> bool:
    """Whether a model of the settings is one for embeddings: an embedder, an encoder's folder, or a run that made one.

    Args:
        source: An embedder's name, a folder or an id.
    """
    kind, colon, _ = source.partition(":")
    folder = Path(source)
    return bool(colon and kind in _LOCAL_KINDS) or (folder / "modules.json").is_file() or _trained(folder)


def _trained(folder: Path) -> bool:
    wait_for_libraries()
    from kivnun.models.heads import read_head  # noqa: PLC0415 - torch takes seconds

    head = read_head(folder / "model") if (folder / "model").is_dir() else None
    return head is not None and head.kind == "embedding"


def open_vectors(source: str) -> Vectors:
    """Load a model.

    Args:
        source: As `find_source` gives it.

    Raises:
        UserError: embedder-missing, model-invalid, run-missing.
    """
    folder = Path(source)
    if _trained(folder):
        return _TrainedVectors(folder)
    return _EncoderVectors(f"dir:{folder}" if folder.is_dir() else source)


class _EncoderVectors:
    """`Vectors` of an embedder of this machine."""

    def __init__(self, spec: str) -> None:
        from kivnun.retrieval.embedders import KINDS, open_embedder  # noqa: PLC0415 - torch takes seconds
        from kivnun.retrieval.torch_embedder import TorchEmbedder  # noqa: PLC0415 - likewise

        embedder = open_embedder(spec)
        if not isinstance(embedder, TorchEmbedder):
            raise UserError(
                "embedder-missing",
                f"{spec.partition('?')[0]} is not computed on this machine",
                hint=f"start the server with --embedding-model, one of {KINDS}, that is",
            )
        self._encoder = embedder.encoder
        self.dim = self._encoder.dim
        self.max_tokens = self._encoder.settings.max_tokens - self._encoder.num_special_tokens
        self.num_words = self._encoder.num_words

    def tokenize(self, text: str) -> list[int]:
        return self._encoder.tokenize(text)

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self._encoder.encode_tokens(rows)


class _TrainedVectors:
    """`Vectors` of a run with the objective contrastive."""

    def __init__(self, run_dir: Path) -> None:
        from kivnun.assistant import open_headed  # noqa: PLC0415 - torch takes seconds

        self._model = open_headed(run_dir, "embedding")
        config = self._model.model.config
        self.dim = int(config.hidden_size)
        self.max_tokens = self._model.head.max_seq_len
        self.num_words = int(config.vocab_size)

    def tokenize(self, text: str) -> list[int]:
        self._model.encoder.require_plain(text)
        return self._model.encoder.encode_prompt(text)

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self._model.embed_tokens(rows)
