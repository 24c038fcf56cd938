"""A few hundred of the bad requests that `bench/server_fuzz.py` sends by the ten thousand."""

import httpx
from bad_requests import fuzz
from running import RunningServer

COUNT = 400


def test_no_bad_request_is_answered_with_a_fault_a_traceback_or_silence(server: RunningServer) -> None:
    server.wait_for_libraries()
    said = server.log_file.read_text("utf-8")
    report = fuzz(server.root_url, server.key, count=COUNT, seed=7)
    assert report.problems == []
    assert report.statuses.total() == COUNT
    assert {200, 400, 401, 404, 405, 413, 415} & set(report.statuses) >= {200, 400, 404, 415}
    assert "failed with" not in server.log_file.read_text("utf-8")[len(said) :]
    assert httpx.get(f"{server.root_url}/health").json()["status"] == "ok"
