"""Three generations of OpenAI's library drive every endpoint of one real server, beside one real training."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sdk_drive
from openai import OpenAI
from running import RunningServer, make_project_key, with_new_project
from test_embeddings import encoder_folder  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".sdk"
VERSIONS = ("1.109.1", "2.54.0", "3.52.0")


@pytest.fixture(scope="module")
def driven(start_server: Callable[..., RunningServer], request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a drive: a server with an embedder, on which one job has trained."""
    server = start_server("--embedding-model", f"dir:{request.getfixturevalue('encoder_folder')}")
    project_id, _ = make_project_key(server.data_dir)
    server = with_new_project(server)
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        files = [sdk_drive.upload(client, sdk_drive.training_lines(rows)) for rows in (12, 3)]
        job = client.fine_tuning.jobs.create(
            model=server.model, training_file=files[0], validation_file=files[1], hyperparameters={"n_epochs": 2}
        )
        done = sdk_drive.wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id), ("succeeded", "failed"))
        assert done.status == "succeeded", done
    return {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": server.key,
        "DRIVE_MODEL": server.model,
        "DRIVE_EMBEDDER": "text-embedding-3-small",
        "DRIVE_PROJECT": project_id,
        "DRIVE_JOB": job.id,
    }


@pytest.mark.parametrize("version", [*VERSIONS, "installed"])
def test_a_version_of_openais_library_drives_every_endpoint(version: str, driven: dict[str, str]) -> None:
    environment = {**os.environ, **driven}
    if version != "installed":
        path = FOLDER / version
        if not (path / "openai").is_dir() and not os.environ.get("CI"):
            pytest.skip(f"make .sdk/{version}/.ready")
        environment["PYTHONPATH"] = str(path)
    drive = Path(sdk_drive.__file__)
    ended = subprocess.run([sys.executable, drive], env=environment, capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stderr
    problems = {part["part"]: part["problem"] for part in told[:-1] if part["problem"] is not None}
    assert problems == {}, "\n".join(problems.values())
    assert len(told) == len(sdk_drive.PARTS) + 1
    assert told[-1]["version"].startswith(version if version != "installed" else "3.")
