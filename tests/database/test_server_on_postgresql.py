import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from typer.testing import CliRunner

from kivnun.cli.app import app

ROW = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


@dataclass(frozen=True)
class Served:
    base_url: str
    data_dir: Path
    database: str

    def keys(self, *words: str) -> list[dict] | dict:
        result = CliRunner().invoke(app, ["keys", *words, "--database", self.database, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def client(self, project: str) -> OpenAI:
        secret = self.keys("create", "test", "--project", project)["secret"]
        return OpenAI(base_url=self.base_url, api_key=secret, max_retries=0, timeout=60)


@pytest.fixture
def served(postgres_url: str, tmp_path: Path) -> Iterator[Served]:
    """A server on PostgreSQL, whose address comes from the environment, as a password should."""
    words = ["--port", "0", "--json", "--workers", "0", "--data-dir", str(tmp_path / "data")]
    with (tmp_path / "server.log").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "kivnun", "serve", *words],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "KIVNUN_DATABASE": postgres_url, "HF_HUB_OFFLINE": "1"},
        )
    line = process.stdout.readline()
    assert line, (tmp_path / "server.log").read_text()
    yield Served(json.loads(line)["url"], tmp_path / "data", postgres_url)
    process.terminate()
    assert process.wait(60) == 0
    process.stdout.close()


def test_a_server_keeps_everything_in_postgresql(served: Served) -> None:
    served.keys("add-project", "tone")
    with served.client("default") as mine, served.client("tone") as theirs:
        files = [mine.files.create(file=("a.jsonl", ROW * 3), purpose="fine-tune") for _ in range(3)]
        jobs = [
            mine.fine_tuning.jobs.create(
                model="gpt-4o-mini", training_file=files[0].id, metadata={"run": str(number), "all": "yes"}
            )
            for number in range(3)
        ]
        listed = list(mine.fine_tuning.jobs.list(limit=2))
        assert [job.id for job in listed] == [job.id for job in reversed(jobs)]
        (found,) = mine.fine_tuning.jobs.list(extra_query={"metadata[run]": "1", "metadata[all]": "yes"})
        assert found.metadata == {"run": "1", "all": "yes"}
        assert [event.message for event in mine.fine_tuning.jobs.list_events(found.id)][-1].endswith(found.id)
        assert mine.fine_tuning.jobs.cancel(found.id).status == "cancelled"
        assert {file.id for file in mine.files.list(limit=2)} == {file.id for file in files}
        assert mine.files.delete(files[2].id).deleted
        assert mine.files.content(files[1].id).read() == ROW * 3
        assert list(theirs.files.list()) == list(theirs.fine_tuning.jobs.list()) == []
        with pytest.raises(NotFoundError):
            theirs.fine_tuning.jobs.retrieve(found.id)
    subjects = [entry["subject"] for entry in served.keys("audit")]
    assert subjects[:2] == [files[2].id, found.id]
    assert {file.id for file in files} | {job.id for job in jobs} <= set(subjects)
    assert not (served.data_dir / "kivnun.sqlite").exists()
