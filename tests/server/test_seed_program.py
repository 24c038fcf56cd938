"""A program as people wrote it for the hosted service, unmodified: upload, create, and later poll and chat.

Where `../shared` lies beside the checkout it is the program of seed 002, word for word, with the file that is printed
beside it, whose second line lacks its last bracket. Everywhere else it is one of our own that does the same.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import sdk_drive
from openai import OpenAI
from running import RunningServer

SEEDS = Path(__file__).resolve().parents[2].parent / "shared" / "seeds"
OWN_DATA = """\
{"messages": [{"role": "user", "content": "Is it open?"}, {"role": "assistant", "content": "Yes, until five."}]}
{"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "By the bridge."}]
"""
OWN_PROGRAM = """\
import openai
from openai import OpenAI

client = OpenAI()
try:
    uploaded = client.files.create(file=open("training_data.jsonl", "rb"), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(training_file=uploaded.id, model="gpt-3.5-turbo")
    print(f"created {job.id}")
except openai.APIStatusError as error:
    print(f"failed: {error.status_code} - {error.response}")
    exit()
"""
OWN_REST = """\
job_status = client.fine_tuning.jobs.retrieve(job_id)
if job_status.status == "succeeded":
    print(job_status.fine_tuned_model)
    response = client.chat.completions.create(
        model=job_status.fine_tuned_model, messages=[{"role": "user", "content": "Is it open?"}]
    )
    print("answer:", response.choices[0].message.content)
"""


@dataclass(frozen=True)
class Printed:
    """What a reader finds.

    Attributes:
        program: As it runs.
        data: The file that it uploads.
        rest: What is to be run once the job is done; it finds `client`, `openai` and `job_id`.
    """

    program: str
    data: str
    rest: str


def read_printed() -> Printed:
    found = sorted(SEEDS.glob("002*"))
    if not found:
        return Printed(OWN_PROGRAM, OWN_DATA, OWN_REST)
    blocks = re.findall(r"```(\w+)\n(.*?)```", found[0].read_text("utf-8"), re.DOTALL)
    data = next(text for kind, text in blocks if kind == "json" and '"role"' in text)
    program = next(text for kind, text in blocks if kind == "python" and "from openai import" in text)
    # What is commented out twice is meant for later; names in quotes are where a reader puts his own.
    later = [re.sub(r"^(# )+", "", line) for line in program.splitlines() if line.startswith("# # ")]
    is_code = [not re.match(r"[\u0590-\u05ff]", line.strip()) for line in later]
    placeholder = re.compile(r'(job_id|fine_tuned_model_name) = "')
    rest = [line for line, is_kept in zip(later, is_code, strict=True) if is_kept and not placeholder.match(line)]
    return Printed(program, data, "\n".join(rest))


@pytest.fixture(scope="module")
def printed() -> Printed:
    return read_printed()


def run_printed(printed: Printed, server: RunningServer, folder: Path) -> str:
    """Run the program where its file lies; the id of the job that it tells."""
    (folder / "training_data.jsonl").write_text(printed.data, "utf-8")
    (folder / "program.py").write_text(printed.program, "utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": server.key,
        "PYTHONIOENCODING": "utf-8",
    }
    ended = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    found = re.search(r"ftjob-\w{24}", ended.stdout)
    assert found is not None, ended.stdout + ended.stderr
    return found[0]


def wait_for_end(client: OpenAI, job_id: str) -> Any:
    return sdk_drive.wait_for(lambda: client.fine_tuning.jobs.retrieve(job_id), ("succeeded", "failed"))


def test_the_program_runs_unmodified_and_its_model_answers(
    printed: Printed, server: RunningServer, client: OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(printed.data.strip().splitlines()[1])
    job_id = run_printed(printed, server, tmp_path)
    job = wait_for_end(client, job_id)
    assert job.status == "succeeded", job.error
    warnings = [event.message for event in client.fine_tuning.jobs.list_events(job_id) if event.level == "warn"]
    assert any("line 2 (`}` added)" in words for words in warnings), warnings
    assert any("2 example(s)" in words for words in warnings), warnings
    # It runs in this process, where its client is that of the test.
    exec(printed.rest, {"client": client, "openai": openai, "job_id": job_id})  # noqa: S102
    said = capsys.readouterr().out
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model in said
    assert len(said.replace(job.fine_tuned_model, "").split()) > 2


def test_strict_refuses_the_file_as_openai_does(
    start_server: Callable[..., RunningServer], printed: Printed, tmp_path: Path
) -> None:
    server = start_server("--strict")
    with OpenAI(base_url=server.base_url, api_key=server.key, _strict_response_validation=True) as client:
        broken = wait_for_end(client, run_printed(printed, server, tmp_path)).error
        assert broken is not None
        assert (broken.code, broken.param) == ("invalid_file_format", "training_file")
        assert "Line 2" in broken.message
        file_id = sdk_drive.upload(client, sdk_drive.training_lines(7))
        job_id = client.fine_tuning.jobs.create(model="gpt-3.5-turbo", training_file=file_id).id
        few = wait_for_end(client, job_id).error
        assert few is not None
        assert few.to_dict() == {
            "code": "invalid_n_examples",
            "param": "training_file",
            "message": "Training file has 7 example(s), but must have at least 10 examples",
        }
        errors = [event for event in client.fine_tuning.jobs.list_events(job_id) if event.level == "error"]
        assert len(errors) == 1
    server.stop()
