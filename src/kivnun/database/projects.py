"""Organisations and their projects: who sees what, and how much of it each may use."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.open import Database
from kivnun.database.tables import File, FineTuningJob, Organization, Project, Upload, UploadPart
from kivnun.errors import UserError

DEFAULT_ORGANIZATION = "org-personal"
DEFAULT_PROJECT = "proj_default"
FINISHED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Quotas:
    """What a project may use; None has no limit.

    Attributes:
        max_storage_bytes: Of its files, and of the parts of uploads that are not complete.
        max_requests_per_minute: Of any kind.
        max_tokens_per_minute: Of prompts and answers together.
        max_unfinished_jobs: Fine-tuning jobs that wait, run or pause.
    """

    max_storage_bytes: int | None = None
    max_requests_per_minute: int | None = None
    max_tokens_per_minute: int | None = None
    max_unfinished_jobs: int | None = None


NO_QUOTAS = Quotas()


def ensure_defaults(database: Database) -> None:
    """Make the organisation `personal` and its project `default`, if they are not there."""
    with database.reading() as session:
        if session.get(Project, DEFAULT_PROJECT) is not None:
            return
    try:
        with database.writing() as session:
            now = int(time.time())
            if session.get(Organization, DEFAULT_ORGANIZATION) is None:
                session.add(Organization(id=DEFAULT_ORGANIZATION, name="personal", created_at=now))
                session.flush()
            if session.get(Project, DEFAULT_PROJECT) is None:
                session.add(make_project(DEFAULT_PROJECT, DEFAULT_ORGANIZATION, "default", now))
    except IntegrityError:
        # Another process made them at the same moment, which only PostgreSQL lets happen; otherwise it is a real error.
        with database.reading() as session:
            if session.get(Project, DEFAULT_PROJECT) is None:
                raise


def make_project(project_id: str, organization_id: str, name: str, now: int, quotas: Quotas = NO_QUOTAS) -> Project:
    """A row that is not added yet."""
    return Project(id=project_id, organization_id=organization_id, name=name, created_at=now, **asdict(quotas))


def create_project(
    session: Session, name: str, *, organization: str = "personal", quotas: Quotas = NO_QUOTAS
) -> Project:
    """Make a project, and its organisation where there is none of that name.

    Raises:
        UserError: `project-invalid` if the name is taken or cannot be one.
    """
    for each in (name, organization):
        _require_name(each)
    now = int(time.time())
    owner = session.scalar(select(Organization).where(Organization.name == organization))
    if owner is None:
        owner = Organization(id=new_id("org-"), name=organization, created_at=now)
        session.add(owner)
        session.flush()
    taken = select(Project).where(Project.organization_id == owner.id, Project.name == name)
    if session.scalar(taken) is not None:
        problem = f"the organisation {organization!r} has a project {name!r} already"
        raise UserError("project-invalid", problem, hint="`kivnun keys projects` lists them")
    project = make_project(new_id("proj_"), owner.id, name, now, quotas)
    session.add(project)
    session.flush()
    return project


def find_project(session: Session, name: str) -> Project:
    """A project by its id, its name, or `ORGANISATION/NAME`.

    Raises:
        UserError: `project-invalid` if there is none, or several organisations have one of that name.
    """
    organization, _, short = name.rpartition("/")
    query = select(Project).join(Organization)
    named = Project.name == short
    query = (
        query.where(named, Organization.name == organization) if organization else query.where(named | _has_id(name))
    )
    found = session.scalars(query).all()
    if len(found) == 1:
        return found[0]
    problem = f"there is no project {name!r}" if not found else f"{len(found)} organisations have a project {name!r}"
    raise UserError("project-invalid", problem, hint="`kivnun keys projects` lists them; ORGANISATION/NAME names one")


def list_projects(session: Session) -> Sequence[tuple[Project, Organization]]:
    """All of them with their organisations, by name."""
    query = select(Project, Organization).join(Organization).order_by(Organization.name, Project.name)
    return [(project, organization) for project, organization in session.execute(query)]


def read_quotas(project: Project) -> Quotas:
    """What a project may use."""
    return Quotas(**{name: getattr(project, name) for name in Quotas.__dataclass_fields__})


def set_quotas(project: Project, quotas: Quotas) -> None:
    """Replace what a project may use."""
    for name, value in asdict(quotas).items():
        setattr(project, name, value)


def count_storage(session: Session, project_id: str) -> int:
    """Bytes of a project's files, and of the parts of uploads that are not complete."""
    files = select(func.coalesce(func.sum(File.num_bytes), 0)).where(File.project_id == project_id)
    parts = (
        select(func.coalesce(func.sum(UploadPart.num_bytes), 0))
        .join(Upload)
        .where(Upload.project_id == project_id, Upload.status == "pending")
    )
    return int(session.scalar(files) or 0) + int(session.scalar(parts) or 0)


def count_unfinished_jobs(session: Session, project_id: str) -> int:
    """Fine-tuning jobs of a project that wait, run or pause."""
    jobs = select(func.count()).where(FineTuningJob.project_id == project_id, FineTuningJob.status.not_in(FINISHED))
    return session.scalar(jobs) or 0


def _has_id(name: str) -> ColumnElement[bool]:
    return Project.id == name


def _require_name(name: str) -> None:
    """An organisation's name becomes a part of model names, which colons divide."""
    if not (0 < len(name) <= 64 and name.isprintable()) or set(name) & set(":/ "):
        problem = f"{name!r} cannot be the name of an organisation or project"
        raise UserError("project-invalid", problem, hint="use 1 to 64 signs without spaces, colons and slashes")
