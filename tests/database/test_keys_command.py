import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kivnun.cli.app import app
from kivnun.database.keys import find_key
from kivnun.database.open import open_database, sqlite_url
from kivnun.errors import UserError


def keys(place: list[str], *words: str) -> Result:
    result = CliRunner().invoke(app, ["keys", *words, *place])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def keys_json(place: list[str], *words: str) -> Any:
    return json.loads(keys(place, *words, "--json").stdout)


@pytest.fixture(params=["folder", "sqlite address", "postgresql address"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Where the database is, as the command line names it."""
    if request.param == "postgresql address":
        return ["--database", request.getfixturevalue("postgres_url")]
    return ["--data-dir", str(tmp_path / "data")] if request.param == "folder" else ["--database", sqlite_url(tmp_path)]


def is_valid(place: list[str], secret: str) -> bool:
    database = open_database(place[1] if place[0] == "--database" else sqlite_url(Path(place[1])))
    try:
        with database.reading() as session:
            return find_key(session, secret) is not None
    finally:
        database.close()


def test_a_key_is_made_listed_and_revoked(place: list[str]) -> None:
    made = keys(place, "create", "laptop", "--new")
    secret = made.stdout.strip()
    assert made.stdout == secret + "\n"
    assert is_valid(place, secret)
    (listed,) = keys_json(place, "list")
    assert (listed["name"], listed["state"], listed["scopes"]) == ("laptop", "active", ["all"])
    assert listed["shown"].endswith(secret[-4:])
    assert keys_json(place, "revoke", listed["id"])["state"] == "revoked"
    assert not is_valid(place, secret)
    assert keys_json(place, "list")[0]["state"] == "revoked"


def test_the_secret_is_told_once(place: list[str]) -> None:
    made = keys_json(place, "create", "laptop", "--new", "--scope", "files:read", "--scope", "models", "--days", "2")
    assert made["scopes"] == ["files:read", "models"]
    assert made["expires_at"] == pytest.approx(time.time() + 2 * 86_400, abs=60)
    secret = made["secret"].removeprefix("sk-kivnun-")
    later = [
        keys(place, *words, *form).output for words in (["list"], ["audit"], ["projects"]) for form in ([], ["--json"])
    ]
    assert not [text for text in later if secret in text]
    # Ids are copied from the list, so that they must stand there whole.
    assert made["id"] in later[0]
    assert all(made["id"] in text for text in later[1:4:2])


def test_projects_have_quotas_and_keys_of_their_own(place: list[str]) -> None:
    project = keys_json(place, "add-project", "tone", "--new", "--organization", "acme")
    assert (project["organization"], project["max_storage_bytes"]) == ("acme", None)
    first = keys_json(place, "quotas", "acme/tone", "--storage-mib", "10", "--requests-per-minute", "60")
    assert (first["max_storage_bytes"], first["max_requests_per_minute"]) == (10 << 20, 60)
    second = keys_json(place, "quotas", "tone", "--storage-mib", "none", "--unfinished-jobs", "3")
    assert second == {**first, "max_storage_bytes": None, "max_unfinished_jobs": 3}
    key = keys_json(place, "create", "laptop", "--project", project["id"])
    assert key["project_id"] == project["id"]
    assert [each["id"] for each in keys_json(place, "list", "--project", "tone")] == [key["id"]]
    assert keys_json(place, "list", "--project", "default") == []
    assert [each["name"] for each in keys_json(place, "projects")] == ["tone", "default"]
    table = keys(place, "projects").stdout
    assert "60" in table
    assert "no limit" in table


def test_what_is_done_at_the_command_line_is_in_the_audit_log(place: list[str]) -> None:
    key = keys_json(place, "create", "laptop", "--new")["id"]
    keys(place, "revoke", key)
    # Said again, and not written down again.
    assert f"{key} (laptop) was revoked already, at 20" in keys(place, "revoke", key).stderr
    keys(place, "quotas", "default", "--tokens-per-minute", "5")
    entries = keys_json(place, "audit")
    expected = [("kivnun keys quotas", "proj_default"), ("kivnun keys revoke", key), ("kivnun keys create", key)]
    assert [(entry["action"], entry["subject"]) for entry in entries] == expected
    older = keys_json(place, "audit", "--limit", "1", "--before", str(entries[1]["number"]), "--project", "default")
    assert older == entries[2:]


def test_a_folder_without_a_database_is_not_made_by_looking(tmp_path: Path) -> None:
    for words in (["list"], ["create", "laptop"], ["add-project", "tone"]):
        with pytest.raises(UserError, match="no database in") as caught:
            keys(["--data-dir", str(tmp_path / "none")], *words)
        assert caught.value.code == "database-failed"
        assert "--new" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_ids_stand_whole_in_every_table_and_projects_by_their_names(place: list[str]) -> None:
    project = keys_json(place, "add-project", "support-of-many-words", "--new", "--organization", "a-long-name-of-one")
    words = ("create", "a-key-with-a-name-of-some-length", "--project", project["id"], "--days", "9")
    key = keys_json(place, *words, "--scope", "files:read", "--scope", "models:read")
    tables = {name: keys(place, name).stdout for name in ("list", "audit", "projects")}
    for name, table in tables.items():
        assert project["name"] in table
        assert (key["id"] if name != "projects" else project["id"]) in table
    assert key["shown"] in tables["list"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "", "9" * 400, "٣"])
def test_a_quota_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    result = CliRunner().invoke(
        app, ["keys", "quotas", "default", f"--storage-mib={value}", "--data-dir", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "whole number" in "".join(result.output.split("\n")).replace("│", "").replace("  ", " ")


def test_the_database_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    keys(["--data-dir", str(tmp_path)], "create", "laptop", "--new")
    assert (tmp_path / "kivnun.sqlite").stat().st_mode & 0o777 == 0o600
