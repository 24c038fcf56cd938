"""What every route needs: settings, database, data folder and models; one value, made when the server starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kivnun.server.openings import ModelOpenings

if TYPE_CHECKING:
    from kivnun.database.open import Database
    from kivnun.server.counters import Counters
    from kivnun.server.late_pool import LatePool
    from kivnun.server.limits import Limits
    from kivnun.serving.pool import ModelPool
    from kivnun.serving.vllm import VllmServers

ENGINES = Literal["auto", "torch", "onnx", "vllm"]


@dataclass(frozen=True)
class ServeSettings:
    """How a server runs; `kivnun serve` has a flag for each.

    Attributes:
        data_dir: Holds the database, unless another is named, and everything that clients send and jobs make.
        host: Address to listen at.
        port: Likewise; 0 takes a free one.
        database_url: SQLAlchemy's; None for SQLite in the data folder.
        require_keys: Whether requests need a key; only on loopback may they come without.
        base_model: What stands in for hosted names such as `gpt-3.5-turbo`, which are on no machine.
        models: Further base models by the name that clients give: a folder, an exported folder or an id.
        embedding_model: What answers /embeddings; None for the default embedder where it was fetched.
        engine: What computes models: by what lies in their folder, or always one.
        strict: Whether data files are refused that the hosted service refuses, such as those with fewer than 10 rows.
        num_workers: Processes of this machine that run jobs; 0 for none.
        memory_bytes: Most memory for models and jobs together; None for what the machine has.
        job_memory_bytes: What of it is for jobs, all of them together; None for half, or nothing without workers.
        max_rows: Most answers that are computed side by side by one model.
        max_waiting: Most answers that wait; further ones are refused with 429.
        max_file_bytes: Largest file.
        bucket_dir: Folder whose `NAME/PATH` is what `gs://NAME/PATH` means; None for none.
        tls_certificate: PEM file; goes with `tls_key`.
        tls_key: PEM file.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    database_url: str | None = None
    require_keys: bool = True
    base_model: str = "bundled"
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    embedding_model: str | None = None
    engine: ENGINES = "auto"
    strict: bool = False
    num_workers: int = 1
    memory_bytes: int | None = None
    job_memory_bytes: int | None = None
    max_rows: int = 64
    max_waiting: int = 256
    max_file_bytes: int = 8 << 30
    bucket_dir: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @property
    def memory_of_jobs(self) -> int | None:
        """Most memory for jobs; None for what the machine has."""
        if self.job_memory_bytes is not None or self.memory_bytes is None:
            return self.job_memory_bytes
        return self.memory_bytes // 2 if self.num_workers else 0

    @property
    def memory_of_models(self) -> int | None:
        """Most memory for models; None for most of what is free when they are first asked for."""
        return None if self.memory_bytes is None else self.memory_bytes - (self.memory_of_jobs or 0)

    @property
    def private_folders(self) -> tuple[str, ...]:
        """Folders that are named in no text for a client."""
        embedder = (self.embedding_model or "").removeprefix("dir:")
        # A tuned model's name is no folder.
        models = [source for source in self.models.values() if not source.startswith("ft:")]
        own = (str(self.data_dir), str(self.bucket_dir or ""), self.base_model, *models, embedder)
        return tuple(folder for folder in own if folder)


@dataclass(frozen=True)
class Service:
    """What every route needs.

    Attributes:
        settings: As the server was started.
        database: Everything that is kept.
        pool: The models in memory.
        limits: Who may ask how much now.
        counters: What `/metrics` tells.
        vllm: What computes chat and completions in the pool's place; None unless the engine is `vllm`.
        openings: Models that are being loaded.
    """

    settings: ServeSettings
    database: "Database"
    pool: "ModelPool | LatePool"
    limits: "Limits"
    counters: "Counters"
    vllm: "VllmServers | None" = None
    openings: ModelOpenings = field(default_factory=ModelOpenings)
