"""Keys, projects and the audit log as tables and as JSON."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.table import Table

from kivnun.cli.output import open_console
from kivnun.data.visible import make_visible
from kivnun.database.projects import (
    count_storage,
    count_unfinished_jobs,
    find_project,
    list_projects,
    read_quotas,
)
from kivnun.database.tables import ApiKey, AuditEntry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

Described = Mapping[str, object]
_MOST_COLUMNS, _FREE_COLUMNS = 2000, 40


def describe_key(key: ApiKey) -> dict[str, object]:
    """A key without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "project_id": key.project_id,
        "shown": key.shown,
        "scopes": key.scopes,
        "state": say_state(key, time.time()),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def say_state(key: ApiKey, now: float) -> str:
    """Whether a key can be used."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def name_projects(session: "Session") -> dict[str, str]:
    """The projects' names by their ids.

    Args:
        session: To read with.
    """
    return {project.id: project.name for project, _ in list_projects(session)}


def print_keys(keys: Sequence[ApiKey], projects: Mapping[str, str]) -> None:
    """One line for each.

    Args:
        keys: With or without a project that is there.
        projects: Names by id.
    """
    now = time.time()
    table = _make_table("id", "name", "key", "project", "scopes", "state", "made", "expires", "last used")
    for key in keys:
        times = (key.created_at, key.expires_at, key.last_used_at)
        scopes, project = " ".join(key.scopes), projects.get(key.project_id, key.project_id)
        row = (key.id, key.name, key.shown, project, scopes, say_state(key, now), *map(_say_day, times))
        table.add_row(*(make_visible(cell) for cell in row))
    _print(table)


def describe_projects(session: "Session", project_id: str | None = None) -> list[dict[str, object]]:
    """Projects with what they keep and may use.

    Args:
        session: To read with.
        project_id: One of them; all if not given.
    """
    one = None if project_id is None else find_project(session, project_id).id
    return [
        {
            "id": project.id,
            "name": project.name,
            "organization": organization.name,
            "organization_id": organization.id,
            "storage_bytes": count_storage(session, project.id),
            "unfinished_jobs": count_unfinished_jobs(session, project.id),
            **asdict(read_quotas(project)),
        }
        for project, organization in list_projects(session)
        if one is None or project.id == one
    ]


def print_projects(projects: Sequence[Described]) -> None:
    """One line for each."""
    table = _make_table("organisation", "project", "id", "keeps", "unfinished jobs", "requests/min", "tokens/min")
    for project in projects:
        keeps = f"{_say_size(project['storage_bytes'])} of {_say_size(project['max_storage_bytes'])}"
        jobs = f"{project['unfinished_jobs']} of {_say_limit(project['max_unfinished_jobs'])}"
        rates = (_say_limit(project[f"max_{kind}_per_minute"]) for kind in ("requests", "tokens"))
        row = (project["organization"], project["name"], project["id"], keeps, jobs, *rates)
        table.add_row(*(make_visible(str(cell)) for cell in row))
    _print(table)


def describe_change(entry: AuditEntry) -> dict[str, object]:
    """A line of the audit log."""
    names = ("number", "at", "project_id", "key_id", "action", "subject", "status", "address", "request_id")
    return {name: getattr(entry, name) for name in names}


def print_changes(entries: Sequence[AuditEntry], projects: Mapping[str, str]) -> None:
    """One line for each.

    Args:
        entries: The newest first.
        projects: Names by id.
    """
    table = _make_table("number", "when", "what", "subject", "status", "key", "project", "from", "request")
    for entry in entries:
        who = (entry.key_id or "-", projects.get(entry.project_id or "", entry.project_id or "-"))
        cells = (say_time(entry.at), entry.action, entry.subject, str(entry.status), *who, entry.address)
        table.add_row(str(entry.number), *(make_visible(cell) for cell in (*cells, entry.request_id)))
    _print(table)


def say_time(seconds: int | None) -> str:
    """A moment in UTC, or a dash for one that never was."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _say_day(seconds: int | None) -> str:
    """A moment to the minute."""
    return say_time(seconds)[:16]


def _print(table: Table) -> None:
    """Print a table in lines as long as it needs: ids are copied from it, and half an id is none."""
    console = open_console()
    needed = Measurement.get(console, console.options.update(max_width=_MOST_COLUMNS), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def _make_table(*names: str) -> Table:
    table = Table()
    for name in names:
        # Only what people wrote themselves, of any length, may go on in the next line.
        is_free = name in ("name", "scopes", "organisation")
        table.add_column(name, overflow="fold", no_wrap=not is_free, max_width=_FREE_COLUMNS if is_free else None)
    return table


def _say_limit(value: object) -> str:
    return "no limit" if value is None else str(value)


def _say_size(num_bytes: object) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB" if isinstance(num_bytes, int) else "no limit"
