"""`kivnun keys`: who may use a server, how much, and what was changed; the server need not run, and sees it at once."""

import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kivnun.cli.output import tell, to_json

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from kivnun.database.audit import Change
    from kivnun.database.open import Database
    from kivnun.database.projects import Quotas

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys; projects, quotas and the audit log.")

SECONDS_PER_DAY = 86_400
NO_LIMIT = "none"

DataDir = Annotated[Path, typer.Option("--data-dir", help="The server's data folder.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--database", help="The server's database, if not in the folder.", envvar="KIVNUN_DATABASE", show_envvar=True
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
ProjectName = Annotated[str | None, typer.Option("--project", help="By id, name or ORGANISATION/NAME.")]
Quota = Annotated[str | None, typer.Option(help=f"A number, or `{NO_LIMIT}`.", show_default=False)]
IsNew = Annotated[bool, typer.Option("--new", help="Make the data folder, before a server first does.")]
DATA_DIR = Path("kivnun-data")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as `laptop`.", show_default=False)],
    project: ProjectName = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do; repeatable. `all` if not given; `files:read` only reads.")
    ] = None,
    days: Annotated[int | None, typer.Option(help="It expires then; never if not given.", min=1, max=36_500)] = None,
    is_new: IsNew = False,
    data_dir: DataDir = DATA_DIR,
    database: Address = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed once and never again: only a hash of it is kept."""
    import time

    from kivnun.cli.keys_table import describe_key
    from kivnun.database.keys import create_key
    from kivnun.database.projects import DEFAULT_PROJECT, find_project

    expires_at = None if days is None else int(time.time()) + days * SECONDS_PER_DAY
    with _open(data_dir, database, may_make=is_new) as opened, opened.writing() as session:
        owner = find_project(session, project or DEFAULT_PROJECT)
        key, secret = create_key(
            session, name, project_id=owner.id, scopes=tuple(scope or ("all",)), expires_at=expires_at
        )
        _note(session, "kivnun keys create", key.id, key.project_id)
    if as_json:
        sys.stdout.write(to_json({**describe_key(key), "secret": secret}))
        return
    tell(f"made key {key.id} of project {owner.name}; keep what follows, for it is not shown again:")
    sys.stdout.write(secret + "\n")


@app.command("list")
def list_all(
    project: ProjectName = None, data_dir: DataDir = DATA_DIR, database: Address = None, as_json: AsJson = False
) -> None:
    """List the keys, revoked ones too, the newest first."""
    from kivnun.cli.keys_table import describe_key, name_projects, print_keys
    from kivnun.database.keys import list_keys
    from kivnun.database.projects import find_project

    with _open(data_dir, database) as opened, opened.reading() as session:
        keys = list_keys(session, None if project is None else find_project(session, project).id)
        names = name_projects(session)
    if as_json:
        sys.stdout.write(to_json([describe_key(key) for key in keys]))
    elif keys:
        print_keys(keys, names)
    else:
        tell("there are no keys; `kivnun keys create NAME` makes one")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `kivnun keys list` shows it.", show_default=False)],
    data_dir: DataDir = DATA_DIR,
    database: Address = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good; a running server refuses it within a second."""
    from kivnun.cli.keys_table import describe_key, say_time
    from kivnun.database.keys import revoke_key
    from kivnun.database.tables import ApiKey

    with _open(data_dir, database) as opened, opened.writing() as session:
        known = session.get(ApiKey, key_id)
        before = None if known is None else known.revoked_at
        key = revoke_key(session, key_id)
        if before is None:
            _note(session, "kivnun keys revoke", key.id, key.project_id)
    if as_json:
        sys.stdout.write(to_json(describe_key(key)))
    elif before is not None:
        tell(f"key {key.id} ({key.name}) was revoked already, at {say_time(before)} UTC")
    else:
        tell(f"revoked key {key.id} ({key.name})")


@app.command()
def projects(data_dir: DataDir = DATA_DIR, database: Address = None, as_json: AsJson = False) -> None:
    """List the projects with what they keep and may use."""
    from kivnun.cli.keys_table import describe_projects, print_projects

    with _open(data_dir, database) as opened, opened.reading() as session:
        found = describe_projects(session)
    if as_json:
        sys.stdout.write(to_json(found))
    else:
        print_projects(found)


@app.command("add-project")
def add_project(
    name: Annotated[str, typer.Argument(help="Of the project.", show_default=False)],
    organization: Annotated[str, typer.Option(help="Whose; made if there is none of that name.")] = "personal",
    is_new: IsNew = False,
    data_dir: DataDir = DATA_DIR,
    database: Address = None,
    as_json: AsJson = False,
) -> None:
    """Make a project, which sees only its own files, jobs and models."""
    from kivnun.cli.keys_table import describe_projects
    from kivnun.database.projects import create_project

    with _open(data_dir, database, may_make=is_new) as opened, opened.writing() as session:
        project = create_project(session, name, organization=organization)
        _note(session, "kivnun keys add-project", project.id, project.id)
        (described,) = describe_projects(session, project.id)
    if as_json:
        sys.stdout.write(to_json(described))
    else:
        tell(f"made project {project.id} ({organization}/{name}); `kivnun keys create NAME --project {project.id}`")


@app.command()
def quotas(
    project: Annotated[str, typer.Argument(help="By id, name or ORGANISATION/NAME.", show_default=False)],
    storage_mib: Quota = None,
    requests_per_minute: Quota = None,
    tokens_per_minute: Quota = None,
    unfinished_jobs: Quota = None,
    data_dir: DataDir = DATA_DIR,
    database: Address = None,
    as_json: AsJson = False,
) -> None:
    """Set what a project may use; what is not given stays. A running server follows within a second."""
    given = {
        "max_storage_bytes": _read_quota("--storage-mib", storage_mib, 1 << 20),
        "max_requests_per_minute": _read_quota("--requests-per-minute", requests_per_minute),
        "max_tokens_per_minute": _read_quota("--tokens-per-minute", tokens_per_minute),
        "max_unfinished_jobs": _read_quota("--unfinished-jobs", unfinished_jobs),
    }
    changed = {name: value[0] for name, value in given.items() if value is not None}
    from dataclasses import replace

    from kivnun.cli.keys_table import describe_projects, print_projects
    from kivnun.database.projects import find_project, read_quotas, set_quotas

    with _open(data_dir, database) as opened, opened.writing() as session:
        found = find_project(session, project)
        if changed:
            new: Quotas = replace(read_quotas(found), **changed)
            set_quotas(found, new)
            _note(session, "kivnun keys quotas", found.id, found.id)
        described = describe_projects(session, found.id)
    if as_json:
        sys.stdout.write(to_json(described[0]))
    else:
        print_projects(described)


@app.command()
def audit(
    project: ProjectName = None,
    limit: Annotated[int, typer.Option(help="At most this many lines.", min=1)] = 50,
    before: Annotated[int | None, typer.Option(help="Those older than the line of this number.")] = None,
    data_dir: DataDir = DATA_DIR,
    database: Address = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, the newest first."""
    from kivnun.cli.keys_table import describe_change, name_projects, print_changes
    from kivnun.database.audit import list_changes
    from kivnun.database.projects import find_project

    with _open(data_dir, database) as opened, opened.reading() as session:
        project_id = None if project is None else find_project(session, project).id
        entries = list_changes(session, limit=limit, project_id=project_id, before=before)
        names = name_projects(session)
    if as_json:
        sys.stdout.write(to_json([describe_change(entry) for entry in entries]))
    elif entries:
        print_changes(entries, names)
    else:
        tell("nothing was changed yet")


@contextmanager
def _open(data_dir: Path, address: str | None, *, may_make: bool = False) -> Generator["Database"]:
    """The database, with the default project in it.

    Raises:
        UserError: `database-failed` where there is none and the command makes none.
    """
    from kivnun.database.open import SQLITE_NAME, open_database, sqlite_url
    from kivnun.database.projects import ensure_defaults
    from kivnun.errors import UserError
    from kivnun.server.folders import DataFolder

    if address is None:
        if may_make:
            DataFolder(data_dir).make()
        elif not (data_dir / SQLITE_NAME).is_file():
            hint = "name the server's folder with --data-dir, or its database with --database"
            # A name with a slip in it would be made as readily as the right one.
            hint += "; `kivnun keys create NAME --new` makes a folder before a server does"
            raise UserError("database-failed", f"there is no database in {data_dir}", hint=hint)
    with closing(open_database(address or sqlite_url(data_dir))) as opened:
        ensure_defaults(opened)
        yield opened


def _note(session: "Session", action: str, subject: str, project_id: str) -> None:
    from kivnun.database.audit import record

    record(session, _make_change(action, subject, project_id))


def _make_change(action: str, subject: str, project_id: str) -> "Change":
    """Who did it is whoever may write the database; the system's name for them is told."""
    import getpass

    from kivnun.database.audit import Change

    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"
    return Change(action, subject, 200, f"command line, {who}", "", project_id)


def _read_quota(flag: str, text: str | None, unit: int = 1) -> tuple[int | None] | None:
    """What a flag sets: None if it was not given, else one value, which may be no limit."""
    if text is None:
        return None
    if text == NO_LIMIT:
        return (None,)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:12]) < 2**31 or len(text) > 10:
        raise typer.BadParameter(f"{flag} {text}: it is a whole number of at least 1, or `{NO_LIMIT}`")
    return (int(text) * unit,)
