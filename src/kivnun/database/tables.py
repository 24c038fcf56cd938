"""The tables, as SQLAlchemy maps them; `migrations/` makes them.

Every row that a client sees has two names: `number`, which grows and by which lists are ordered and cut into pages, and
`id`, which clients know. Times are whole seconds since 1970 in UTC, as in the API; leases are finer. Files lie in the
data folder under names that the server chose; what a client calls them is only text here.
"""

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite counts up by itself only in a column of exactly this type.
Number = BigInteger().with_variant(Integer, "sqlite")
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {dict[str, Any]: JSON, list[Any]: JSON}


class Organization(Table):
    """People who belong together; the third part of a tuned model's name."""

    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Project(Table):
    """Whose files, jobs and models: no project sees those of another. Quotas of None have no limit."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    max_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    max_tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    max_unfinished_jobs: Mapped[int | None] = mapped_column(Integer)
    __table_args__ = (UniqueConstraint("organization_id", "name"),)


class ApiKey(Table):
    """A key, of which only a hash is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    key_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    shown: Mapped[str] = mapped_column(String(32))
    scopes: Mapped[list[Any]]
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[int | None] = mapped_column(BigInteger)


class AuditEntry(Table):
    """Who did what and when; never changed, never removed by the server."""

    __tablename__ = "audit_entries"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    at: Mapped[int] = mapped_column(BigInteger, index=True)
    project_id: Mapped[str | None] = mapped_column(String(64))
    key_id: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(Text)
    status: Mapped[int] = mapped_column(Integer)
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))


class File(Table):
    """A file of a project; its bytes lie in `files/ID`."""

    __tablename__ = "files"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(64))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(32))
    status_details: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (Index(None, "project_id", "number"), Index(None, "expires_at"))


class Upload(Table):
    """A file that comes in parts; the parts lie in `uploads/ID/`."""

    __tablename__ = "uploads"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(64))
    mime_type: Mapped[str] = mapped_column(Text)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(32))
    file_id: Mapped[str | None] = mapped_column(String(64))
    file_expires_after: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)


class UploadPart(Table):
    """One part of an upload."""

    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)


class FineTuningJob(Table):
    """A job, what was asked for, and who works at it; its run folder is `jobs/ID/run`.

    `asked` holds the method and hyper-parameters as the client gave them ("auto" included), `hyperparameters` what they
    became once the files were read. `wanted` is what a client wants next: `run`, `pause` or `cancel`; a worker that
    holds the lease brings `status` there.
    """

    __tablename__ = "fine_tuning_jobs"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model: Mapped[str] = mapped_column(Text)
    base_model: Mapped[str] = mapped_column(Text)
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    suffix: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    asked: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    integrations: Mapped[list[Any]]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON)
    status: Mapped[str] = mapped_column(String(32))
    wanted: Mapped[str] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None]
    fine_tuned_model: Mapped[str | None] = mapped_column(Text)
    result_files: Mapped[list[Any]]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    estimated_finish: Mapped[int | None] = mapped_column(BigInteger)
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[float | None] = mapped_column(Float(53))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    events_read: Mapped[int] = mapped_column(Integer, default=0)
    __table_args__ = (Index(None, "project_id", "number"), Index(None, "status", "number"))


class JobMetadata(Table):
    """One pair of a job's metadata, by which lists are filtered."""

    __tablename__ = "job_metadata"
    job_number: Mapped[int] = mapped_column(ForeignKey("fine_tuning_jobs.number"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))
    __table_args__ = (Index(None, "key", "value", "job_number"),)


class JobEvent(Table):
    """What happened to a job. `source` names what it was made from, such as `log:17`: no line becomes two events."""

    __tablename__ = "job_events"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id"))
    source: Mapped[str] = mapped_column(String(64))
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (Index(None, "job_id", "number"), UniqueConstraint("job_id", "source"))


class JobCheckpoint(Table):
    """A model as it was at the end of an epoch."""

    __tablename__ = "job_checkpoints"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id"))
    model_name: Mapped[str] = mapped_column(Text, unique=True)
    step: Mapped[int] = mapped_column(Integer)
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (Index(None, "job_id", "number"), UniqueConstraint("job_id", "step"))


class CheckpointPermission(Table):
    """A project beside the owner that may use a checkpoint."""

    __tablename__ = "checkpoint_permissions"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    model_name: Mapped[str] = mapped_column(Text)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (UniqueConstraint("model_name", "project_id"),)


class TunedModel(Table):
    """A tuned model or a checkpoint of one, by the name that clients ask for; `folder` lies in the data folder."""

    __tablename__ = "tuned_models"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    organization_name: Mapped[str] = mapped_column(String(64))
    base_model: Mapped[str] = mapped_column(Text)
    folder: Mapped[str] = mapped_column(Text)
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id"), index=True)
    checkpoint_step: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (Index(None, "project_id", "number"),)


class Batch(Table):
    """Requests of a file that are answered when there is room; what was answered lies in `batches/ID/`."""

    __tablename__ = "batches"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    endpoint: Mapped[str] = mapped_column(String(64))
    input_file_id: Mapped[str] = mapped_column(String(64))
    completion_window: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(32))
    errors: Mapped[list[Any]]
    output_file_id: Mapped[str | None] = mapped_column(String(64))
    error_file_id: Mapped[str | None] = mapped_column(String(64))
    output_expires_after: Mapped[int | None] = mapped_column(Integer)
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON)
    num_total: Mapped[int] = mapped_column(Integer, default=0)
    num_completed: Mapped[int] = mapped_column(Integer, default=0)
    num_failed: Mapped[int] = mapped_column(Integer, default=0)
    times: Mapped[dict[str, Any]]
    created_at: Mapped[int] = mapped_column(BigInteger)
    model: Mapped[str | None] = mapped_column(Text)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    __table_args__ = (Index(None, "project_id", "number"), Index(None, "status"))


class VertexJob(Table):
    """A tuning job as the Vertex face knows it: numbers instead of names, over a fine-tuning job."""

    __tablename__ = "vertex_jobs"
    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id"), unique=True)
    cloud_project: Mapped[str] = mapped_column(Text)
    location: Mapped[str] = mapped_column(Text)
    asked: Mapped[dict[str, Any]]


class IdempotencyKey(Table):
    """What a client's `Idempotency-Key` made, so that a request that is sent again makes nothing new."""

    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    fingerprint: Mapped[str] = mapped_column(String(64))
    subject_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger, index=True)
