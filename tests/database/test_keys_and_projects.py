import base64
import time

import pytest
from sqlalchemy import select

from kivnun.database.audit import Change, list_changes, record
from kivnun.database.keys import (
    SCOPES,
    allows,
    create_key,
    find_key,
    hash_secret,
    list_keys,
    mask_secret,
    note_use,
    revoke_key,
)
from kivnun.database.open import Database
from kivnun.database.projects import (
    DEFAULT_PROJECT,
    Quotas,
    count_storage,
    count_unfinished_jobs,
    create_project,
    ensure_defaults,
    find_project,
    list_projects,
    read_quotas,
    set_quotas,
)
from kivnun.database.tables import ApiKey, File, FineTuningJob, Organization, Upload, UploadPart
from kivnun.errors import UserError


@pytest.fixture
def opened(database: Database) -> Database:
    ensure_defaults(database)
    ensure_defaults(database)
    return database


def make_key(database: Database, **given: object) -> tuple[ApiKey, str]:
    with database.writing() as session:
        return create_key(session, "laptop", **given)  # type: ignore[arg-type]


def test_a_new_database_has_one_organisation_with_one_project(opened: Database) -> None:
    with opened.reading() as session:
        found = [(organization.name, project.name, project.id) for project, organization in list_projects(session)]
        assert found == [("personal", "default", DEFAULT_PROJECT)]


def test_a_secret_is_256_random_bits_and_only_its_hash_is_kept(opened: Database) -> None:
    key, secret = make_key(opened)
    random = secret.removeprefix("sk-kivnun-")
    assert secret != random
    assert len(base64.urlsafe_b64decode(random + "=")) == 32
    assert key.key_sha256 == hash_secret(secret)
    with opened.reading() as session:
        row = session.execute(select(ApiKey.__table__)).one()
    assert not any(random[6:] in str(value) for value in row)
    assert row.shown == f"sk-kiv***{secret[-4:]}"
    assert make_key(opened)[1] != secret


def test_a_key_is_found_by_its_secret_until_it_is_revoked(opened: Database) -> None:
    key, secret = make_key(opened, scopes=["models:read", "files"])
    with opened.reading() as session:
        found = find_key(session, secret)
        assert found is not None
        assert (found.id, found.scopes, found.project_id) == (key.id, ["files", "models:read"], DEFAULT_PROJECT)
        assert find_key(session, secret[:-1]) is None
        assert find_key(session, "") is None
    with opened.writing() as session:
        first = revoke_key(session, key.id).revoked_at
    with opened.writing() as session:
        assert revoke_key(session, key.id).revoked_at == first
    with opened.reading() as session:
        assert find_key(session, secret) is None
        assert [each.id for each in list_keys(session)] == [key.id]


def test_a_key_ends_at_the_second_of_its_expiry(opened: Database) -> None:
    end = int(time.time()) + 100
    _, secret = make_key(opened, expires_at=end)
    with opened.reading() as session:
        assert find_key(session, secret, now=end - 0.01) is not None
        assert find_key(session, secret, now=end) is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"scopes": ["file"]}, "there is no scope 'file'"),
        ({"scopes": []}, "a key needs a scope"),
        ({"expires_at": 1}, "would expire"),
    ],
)
def test_a_key_that_could_not_be_used_is_not_made(opened: Database, given: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        make_key(opened, **given)
    assert caught.value.code == "key-invalid"


def test_a_name_that_no_table_could_show_is_refused(opened: Database) -> None:
    for name in ("", "a" * 129, "a\x1b[2J"):
        with pytest.raises(UserError), opened.writing() as session:
            create_key(session, name)


def test_the_last_use_is_written_once_a_minute(opened: Database) -> None:
    key, _ = make_key(opened)
    seen = []
    for now in (1000, 1059, 1060, 1061):
        with opened.writing() as session:
            note_use(session, key.id, now)
        with opened.reading() as session:
            seen.append(session.get_one(ApiKey, key.id).last_used_at)
    assert seen == [1000, 1000, 1060, 1060]


def test_a_scope_holds_its_own_reading_and_all_holds_everything() -> None:
    assert {scope for scope in SCOPES if allows(["files"], scope)} == {"files", "files:read"}
    assert {scope for scope in SCOPES if allows(["files:read"], scope)} == {"files:read"}
    assert {scope for scope in SCOPES if allows(["all"], scope)} == set(SCOPES)
    assert {scope for scope in SCOPES if allows(["all:read"], scope)} == {s for s in SCOPES if s.endswith(":read")}
    assert not any(allows([], scope) for scope in SCOPES)


def test_a_mask_shows_nothing_of_a_short_secret() -> None:
    assert mask_secret("hunter2") == "***"
    assert mask_secret("sk-kivnun-0123456789abcd") == "sk-kiv***abcd"


def test_projects_have_names_within_their_organisation(opened: Database) -> None:
    with opened.writing() as session:
        first = create_project(session, "tone", organization="acme")
        second = create_project(session, "tone", organization="other")
        third = create_project(session, "facts", organization="acme", quotas=Quotas(max_unfinished_jobs=2))
    with opened.reading() as session:
        assert len(list(session.scalars(select(Organization)))) == 3
        assert first.organization_id == third.organization_id != second.organization_id
        assert find_project(session, "acme/tone").id == first.id
        assert find_project(session, second.id).id == second.id
        assert read_quotas(find_project(session, "facts")) == Quotas(max_unfinished_jobs=2)
        for name, problem in (("tone", "2 organisations"), ("none", "no project"), ("acme/none", "no project")):
            with pytest.raises(UserError, match=problem):
                find_project(session, name)


@pytest.mark.parametrize(
    ("name", "organization"), [("a:b", "x"), ("a", "x y"), ("", "x"), ("a", "x/y"), ("default", "personal")]
)
def test_names_that_would_break_model_names_or_are_taken_are_refused(
    opened: Database, name: str, organization: str
) -> None:
    with pytest.raises(UserError) as caught, opened.writing() as session:
        create_project(session, name, organization=organization)
    assert caught.value.code == "project-invalid"


def test_quotas_are_replaced_as_a_whole(opened: Database) -> None:
    for quotas in (Quotas(1, 2, 3, 4), Quotas(max_tokens_per_minute=5)):
        with opened.writing() as session:
            set_quotas(find_project(session, "default"), quotas)
        with opened.reading() as session:
            assert read_quotas(find_project(session, "default")) == quotas


def file_row(project_id: str, name: str, num_bytes: int) -> File:
    return File(
        id=name, project_id=project_id, filename="a", purpose="fine-tune", num_bytes=num_bytes, sha256="",
        status="processed",
        created_at=1,
    )  # fmt: skip


def upload_row(project_id: str, name: str, status: str) -> Upload:
    return Upload(
        id=name, project_id=project_id, filename="a", purpose="fine-tune", mime_type="", num_bytes=99, status=status,
        created_at=1, expires_at=2,
    )  # fmt: skip


def test_storage_counts_files_and_parts_of_unfinished_uploads_of_the_project_alone(opened: Database) -> None:
    with opened.writing() as session:
        other = create_project(session, "other").id
        session.add_all(
            [file_row(DEFAULT_PROJECT, "f1", 100), file_row(DEFAULT_PROJECT, "f2", 20), file_row(other, "f3", 7)]
        )
        session.add_all([upload_row(DEFAULT_PROJECT, "u1", "pending"), upload_row(DEFAULT_PROJECT, "u2", "completed")])
        session.flush()
        session.add_all(UploadPart(id=f"p{u}", upload_id=u, num_bytes=3000, created_at=1) for u in ("u1", "u2"))
    with opened.reading() as session:
        assert (count_storage(session, DEFAULT_PROJECT), count_storage(session, other)) == (3120, 7)


def job_row(project_id: str, name: str, status: str) -> FineTuningJob:
    return FineTuningJob(
        id=name, project_id=project_id, model="m", base_model="m", training_file="f", seed=1, asked={},
        hyperparameters={},
        integrations=[], status=status, wanted="run", result_files=[], created_at=1, error=None, metadata_=None,
    )  # fmt: skip


def test_unfinished_jobs_are_those_that_wait_run_or_pause(opened: Database) -> None:
    states = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
    with opened.writing() as session:
        session.add_all(job_row(DEFAULT_PROJECT, state, state) for state in states)
    with opened.reading() as session:
        assert count_unfinished_jobs(session, DEFAULT_PROJECT) == 4


def test_the_audit_log_lists_the_newest_first_in_pages(opened: Database) -> None:
    changes = [Change(f"POST /v1/files/{n}" + "x" * 90, f"file-{n}", 200, "::1", "req", f"p{n % 2}") for n in range(5)]
    with opened.writing() as session:
        for number, change in enumerate(changes):
            record(session, change, now=1000.9 + number)
    with opened.reading() as session:
        newest = list_changes(session, limit=2)
        assert [(entry.subject, entry.at) for entry in newest] == [("file-4", 1004), ("file-3", 1003)]
        assert len(newest[0].action) == 64
        older = list_changes(session, limit=10, before=newest[-1].number)
        assert [entry.subject for entry in older] == ["file-2", "file-1", "file-0"]
        assert [entry.subject for entry in list_changes(session, limit=10, project_id="p1")] == ["file-3", "file-1"]
