"""`kivnun evaluate` through a service that fails: what was answered is kept, the rest is asked by the same command."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "asking"))

from stand_in_service import Failure, Service, asked_text, serve

from kivnun.cli.app import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAND_IN_KEY", "sk-very-secret")
    turns = [("What is one?", "1"), ("What is two?", "2"), ("מה זה שלוש?", "3"), ("What is four?", "4")]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in turns
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve() as running:
        running.reply = lambda request: dict(turns)[asked_text(request)]
        yield running


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["kivnun", "evaluate", *words, "--data", "rows.jsonl", "--task", "generation"])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_service_is_evaluated_like_any_model(service: Service, command: Command, kind: str) -> None:
    status, out, _ = command(getattr(service, kind), "--json", "--instruction", "Be short.")
    result = json.loads(out)
    assert status == 0
    assert result["metrics"]["exact_match"]["value"] == 1.0
    assert result["usage"]["prompt_tokens"] == 40
    assert "no price" in result["usage"]["price_note"]
    folder = Path(result["folder"])
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"sk-very-secret" not in written
    first = service.requests[0]
    told = first["messages"][0]["content"] if kind == "openai" else first["system"][0]["text"]
    assert told == "Be short."


def test_a_service_that_dies_half_way_ends_with_an_error_and_the_same_command_goes_on(
    service: Service, command: Command
) -> None:
    # A status that no waiting mends, so that the test does not wait either.
    service.refuse = lambda _request: Failure(403, error={"message": "gone"}) if len(service.requests) > 2 else None
    spec = service.openai + "&parallel=1"
    status, _, err = command(spec)
    assert status == 2
    assert "error[endpoint-failed]" in err
    assert "answers so far are kept" in err
    assert not list(Path("evaluations").glob("*/scores.json"))
    service.refuse = lambda _request: None
    asked = len(service.requests)
    status, out, _ = command(spec, "--json")
    assert status == 0
    assert json.loads(out)["num_rows"] == 4
    assert len(service.requests) - asked == 2


def test_retries_are_said_aloud_and_refused_rows_count_as_wrong(service: Service, command: Command) -> None:
    def refuse(request: dict) -> Failure | None:
        return Failure(400, error={"code": "content_filter"}) if "two" in asked_text(request) else None

    service.refuse = refuse
    service.failures = [Failure(429, {"retry-after": "0.01"})]
    status, out, err = command(service.openai)
    assert status == 0
    assert "trying again in 0.01 s" in err
    assert "1 of 4 requests were refused by the service; they count as wrong" in " ".join(out.split())
    assert "75.0" in out
