"""The rating page behind its local server: a real browser, several raters at once, and requests that must not pass."""

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from rated_answers import write_evaluation, write_two
from real_browser import CHROMIUM, Page, open_browser

from kivnun.assessment.pairs import AnswerPair, chosen_rows, read_pairs
from kivnun.assessment.rating_server import MAX_BODY_BYTES, TOKEN_HEADER, RatingServer
from kivnun.assessment.ratings import RatingSession, ratings_file, read_all_ratings, read_ratings

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[AnswerPair, ...]:
    return chosen_rows(read_pairs(*write_two(tmp_path)).different, None, seed=0)


@pytest.fixture
def server(tmp_path: Path, pairs: tuple[AnswerPair, ...]) -> Iterator[RatingServer]:
    with RatingServer(tmp_path / "c", pairs, seed=0) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield server
        server.close()
        thread.join()


def token_of(server: RatingServer) -> str:
    return parse_qs(urlsplit(server.address).query)["token"][0]


def send(
    server: RatingServer, path: str, fields: Any = None, *, method: str = "POST", **headers: str
) -> tuple[int, str]:
    """A request with the headers of the page, changed as a test wants."""
    usual = {"Host": f"127.0.0.1:{server.port}", "Content-Type": "application/json", TOKEN_HEADER: token_of(server)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, body if method == "POST" else None, {**usual, **named})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def ask(server: RatingServer, path: str, rater: str, **fields: str) -> dict[str, Any]:
    status, text = send(server, path, {"rater": rater, **fields})
    assert status == 200, text
    return json.loads(text)


# As the page asks


def test_a_rater_goes_through_all_rows_and_back(tmp_path: Path, server: RatingServer) -> None:
    state = ask(server, "/next", "dana")
    assert (state["done"], state["total"]) == (0, 16)
    assert set(state["row"]) == {"row_id", "prompt", "references", "left", "right"}
    while state["row"] is not None:
        state = ask(server, "/rate", "dana", row_id=state["row"]["row_id"], choice="right")
    assert state["done"] == 16
    state = ask(server, "/undo", "dana")
    assert (state["done"], state["row"] is None) == (15, False)
    assert len(read_ratings(ratings_file(tmp_path / "c", "dana"))) == 15


def test_a_row_that_another_window_rated_is_not_rated_twice(tmp_path: Path, server: RatingServer) -> None:
    row_id = ask(server, "/next", "dana")["row"]["row_id"]
    first = ask(server, "/rate", "dana", row_id=row_id, choice="left")
    assert ask(server, "/rate", "dana", row_id=row_id, choice="right") == first
    (rating,) = read_ratings(ratings_file(tmp_path / "c", "dana"))
    assert rating.is_left


def test_raters_at_once_keep_everything_of_each(
    tmp_path: Path, server: RatingServer, pairs: tuple[AnswerPair, ...]
) -> None:
    """Four raters, two of them with two windows that race for the same rows."""
    by_id = {pair.row_id: pair for pair in pairs}

    def work(rater: str) -> None:
        state = ask(server, "/next", rater)
        while (row := state["row"]) is not None:
            assert {row["left"], row["right"]} == {by_id[row["row_id"]].a, by_id[row["row_id"]].b}
            choice = "left" if "tuned" in row["left"] else "right"
            state = ask(server, "/rate", rater, row_id=row["row_id"], choice=choice)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, ["dana", "noa", "יוסי", "avi", "dana", "noa"]))
    found = read_all_ratings(tmp_path / "c")
    assert set(found) == {"dana", "noa", "יוסי", "avi"}
    for ratings in found.values():
        assert [each.row_id for each in ratings] == [pair.row_id for pair in pairs]
        assert {each.choice for each in ratings} == {"b"}
    lines = sum(len(path.read_text().splitlines()) for path in (tmp_path / "c").glob("ratings-*"))
    assert lines == 4 * 16
    assert len({tuple(each.left for each in ratings) for ratings in found.values()}) == 4


def test_every_rating_is_told_of(tmp_path: Path, pairs: tuple[AnswerPair, ...]) -> None:
    told: list[tuple[str, int, int]] = []
    with RatingServer(tmp_path / "c", pairs, seed=0, show=lambda *said: told.append(said)) as server:
        row = server.answer("/next", {"rater": "dana"})["row"]
        assert isinstance(row, dict)
        server.answer("/rate", {"rater": "dana", "row_id": row["row_id"], "choice": "skip"})
        server.answer("/undo", {"rater": "dana"})
    assert told == [("dana", 1, 16), ("dana", 0, 16)]


# What must not pass


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"Host": "evil.example"}),
        (403, {"Host": "evil.example:80"}),
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (403, {"Origin": "https://127.0.0.1:1"}),
        (403, {TOKEN_HEADER: ""}),
        (403, {TOKEN_HEADER: "wrong"}),
        (415, {"Content-Type": "text/plain"}),
        (415, {"Content-Type": "application/x-www-form-urlencoded"}),
    ],
    ids=str,
)
def test_other_pages_cannot_post(tmp_path: Path, server: RatingServer, status: int, headers: dict[str, str]) -> None:
    row_id = ask(server, "/next", "dana")["row"]["row_id"]
    fields = {"rater": "dana", "row_id": row_id, "choice": "left"}
    assert send(server, "/rate", fields, **headers)[0] == status
    assert read_all_ratings(tmp_path / "c") == {}


def test_the_page_itself_and_localhost_may_post(server: RatingServer) -> None:
    own = f"127.0.0.1:{server.port}"
    assert send(server, "/next", {"rater": "dana"}, Origin=f"http://{own}")[0] == 200
    local = f"localhost:{server.port}"
    assert send(server, "/next", {"rater": "dana"}, Host=local, Origin=f"http://{local}")[0] == 200


@pytest.mark.parametrize(
    ("status", "path", "fields"),
    [
        (404, "/other", {"rater": "dana"}),
        (400, "/next", b"{"),
        (400, "/next", ["dana"]),
        (400, "/next", b"[" * 9000),
        (413, "/next", b" " * (MAX_BODY_BYTES + 1)),
        (409, "/next", {}),
        (409, "/next", {"rater": "../x"}),
        (400, "/rate", {"rater": "dana", "row_id": "r1", "choice": "a"}),
        (400, "/rate", {"rater": "dana", "row_id": "r1", "choice": ["left"]}),
        (400, "/rate", {"rater": "dana", "choice": "left"}),
    ],
    ids=["path", "no JSON", "list", "deep", "long", "nobody", "bad name", "model", "list as choice", "no row"],
)
def test_what_is_no_rating_is_refused_with_its_reason(
    server: RatingServer, status: int, path: str, fields: Any
) -> None:
    found, text = send(server, path, fields)
    assert found == status
    assert json.loads(text)["problem"]


def test_the_page_needs_its_token_and_runs_no_other_script(server: RatingServer) -> None:
    assert send(server, "/", method="GET")[0] == 403
    assert send(server, "/?token=wrong", method="GET")[0] == 403
    assert send(server, f"/other?token={token_of(server)}", method="GET")[0] == 404
    assert send(server, f"/?token={token_of(server)}", method="GET", Host="evil.example")[0] == 403
    status, text = send(server, f"/?token={token_of(server)}", method="GET")
    assert status == 200
    assert token_of(server) not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_server_listens_on_this_machine_only(server: RatingServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"
    assert server.address.startswith("http://127.0.0.1:")


def test_a_rater_at_work_in_a_terminal_is_told_so(
    tmp_path: Path, server: RatingServer, pairs: tuple[AnswerPair, ...]
) -> None:
    with RatingSession(tmp_path / "c", "dana", pairs, seed=0):
        status, text = send(server, "/next", {"rater": "dana"})
    assert (status, "in another process" in text) == (409, True)
    assert send(server, "/next", {"rater": "dana"})[0] == 200


# In a real browser


def start(page: Page, rater: str) -> None:
    page.value("document.getElementById('name').focus()")
    page.type(rater)
    page.press("Enter", "Enter")
    page.wait("!document.getElementById('rating').hidden || !document.getElementById('finished').hidden")


def rate(page: Page, key: str, code: str) -> None:
    before = page.value("document.getElementById('progress').textContent")
    page.press(key, code)
    page.wait(f"document.getElementById('progress').textContent !== {json.dumps(before)}")


@needs_browser
def test_people_rate_in_a_browser_with_keys_buttons_and_undo(tmp_path: Path, server: RatingServer) -> None:
    with open_browser(tmp_path / "profile") as browser:
        dana, noa = browser.open(server.address), browser.open(server.address)
        start(dana, "dana")
        start(noa, "נועה")
        assert dana.value("document.getElementById('progress').textContent") == "dana · 0 of 16 rated"
        for key, code in (("1", "Digit1"), ("ר", "KeyR"), ("3", "Digit3"), ("נ", "KeyB"), ("5", "Digit5")):
            rate(dana, key, code)
        rate(noa, "ArrowLeft", "ArrowLeft")
        rate(dana, "ו", "KeyU")
        progress = noa.value("document.getElementById('progress').textContent")
        noa.value("document.querySelector('[data-choice=both_good]').click()")
        noa.wait(f"document.getElementById('progress').textContent !== {json.dumps(progress)}")
        assert browser.problems == []
    given = [each.choice for each in read_ratings(ratings_file(tmp_path / "c", "dana"))]
    ratings = read_ratings(ratings_file(tmp_path / "c", "dana"))
    assert [each.is_left for each in ratings] == [True, False, False, False]
    assert ratings[1].choice in "ab"
    assert given[2:] == ["both_good", "both_bad"]
    others = read_ratings(ratings_file(tmp_path / "c", "נועה"))
    assert [(each.is_left, each.choice == "both_good") for each in others] == [(True, False), (False, True)]


@needs_browser
def test_the_page_shows_texts_as_they_are_and_in_their_own_direction(tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    first = write_evaluation(tmp_path / "a", [f"שלום, world!\n{evil}"])
    second = write_evaluation(tmp_path / "b", ["  "])
    pairs = read_pairs(first, second).different
    with RatingServer(tmp_path / "c", pairs, seed=0) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        with open_browser(tmp_path / "profile") as browser:
            page = browser.open(server.address)
            start(page, "dana")
            sides = {page.value(f"document.getElementById('{side}').textContent") for side in ("left", "right")}
            assert sides == {f"שלום, world!\n{evil}", "(empty)"}
            hebrew = "[...document.querySelectorAll('#left, #right')].find((each) => each.textContent !== '(empty)')"
            assert page.value(f"{hebrew}.matches(':dir(rtl)')") is True
            assert page.value("document.title").startswith("Which answer")
            assert page.value("document.querySelectorAll('#rating img, #rating script').length") == 0
            rate(page, "4", "Digit4")
            assert page.value("document.getElementById('finished').hidden") is False
            assert browser.problems == []
            server.close()
            thread.join()
            page.press("u", "KeyU")
            page.wait("document.getElementById('problem').textContent.includes('does not answer')")
    assert [each.choice for each in read_ratings(ratings_file(tmp_path / "c", "dana"))] == ["both_bad"]


@needs_browser
def test_another_page_in_the_same_browser_cannot_rate(
    tmp_path: Path, server: RatingServer, pairs: tuple[AnswerPair, ...]
) -> None:
    """What needs no permission is sent and refused; what carries the token's header is not even sent."""
    fields = json.dumps({"rater": "dana", "row_id": pairs[0].row_id, "choice": "left"})
    send_it = f"fetch('http://127.0.0.1:{server.port}/rate', {{method: 'POST', body: {json.dumps(fields)}, %s}})"
    plain = send_it % "mode: 'no-cors'"
    with_token = send_it % f"headers: {{'{TOKEN_HEADER}': '{token_of(server)}', 'Content-Type': 'application/json'}}"
    with ThreadingHTTPServer(("127.0.0.1", 0), PlainPage) as elsewhere, open_browser(tmp_path / "profile") as browser:
        thread = threading.Thread(target=elsewhere.serve_forever)
        thread.start()
        page = browser.open(f"http://127.0.0.1:{elsewhere.server_port}/")
        assert page.value(f"{plain}.then((answer) => answer.type, String)") == "opaque"
        assert "TypeError" in page.value(f"{with_token}.then((answer) => answer.type, String)")
        elsewhere.shutdown()
        thread.join()
    assert read_all_ratings(tmp_path / "c") == {}


class PlainPage(BaseHTTPRequestHandler):
    """Some other page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>other</title>")

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""
