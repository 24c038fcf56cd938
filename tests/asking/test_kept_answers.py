"""What was answered stays: through kill -9, beside a second process, and never asked again."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from kivnun.asking.kept import KeptAnswers, answer_key, ask_all
from kivnun.asking.open import quiet
from kivnun.asking.request import Reply, Request
from kivnun.errors import UserError

WRITER = """
import sys
from pathlib import Path
from kivnun.asking.kept import KeptAnswers
from kivnun.asking.request import Reply
kept = KeptAnswers(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    kept.keep(f"{sys.argv[2]} {number}", Reply("yes", "stop", 1, 1))
    print(number, flush=True)
"""


@dataclass
class Echo:
    """A model that repeats what it is asked."""

    name: str = "echo"
    place: str = "this machine"
    identity: str = "echo 1"
    kind: Literal["text", "chat"] = "text"
    context_tokens: int | None = None
    price: str | None = None
    asked: list[str] = field(default_factory=list)
    fails_at: int | None = None

    def count_tokens(self, request: Request) -> int | None:
        return len(request.text or "")

    def ask(self, requests: Sequence[Request], *, max_new_tokens: int, keep: Callable[[int, Reply], None]) -> None:
        # Replies may come in any order.
        for number, request in reversed(list(enumerate(requests))):
            if self.fails_at is not None and len(self.asked) == self.fails_at:
                raise UserError("endpoint-failed", "gone", hint="wait")
            self.asked.append(request.text or "")
            keep(number, self.time(request, max_new_tokens=max_new_tokens))

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        return Reply((request.text or "")[:max_new_tokens], "stop", 1, 1)


def texts(*words: str) -> list[Request]:
    return [Request((), word) for word in words]


def test_equal_requests_are_asked_once_and_answered_each_time() -> None:
    model, kept = Echo(), KeptAnswers.in_memory()
    seen: list[object] = []
    replies = ask_all(
        model,
        texts("a", "b", "a"),
        max_new_tokens=5,
        kept=kept,
        log=lambda _event, fields: seen.append((fields["done"], fields["num_requests"])),
    )
    assert [reply.text for reply in replies] == ["a", "b", "a"]
    assert sorted(model.asked) == ["a", "b"]
    assert seen == [(0, 3), (1, 3), (3, 3)]


def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    first = Echo(fails_at=2)
    with KeptAnswers(tmp_path / "a.sqlite") as kept, pytest.raises(UserError, match="gone"):
        ask_all(first, texts(*"abcde"), max_new_tokens=5, kept=kept, log=quiet)
    second = Echo()
    with KeptAnswers(tmp_path / "a.sqlite") as kept:
        replies = ask_all(second, texts(*"abcde"), max_new_tokens=5, kept=kept, log=quiet)
    assert [reply.text for reply in replies] == list("abcde")
    assert sorted(first.asked + second.asked) == list("abcde")
    assert [reply.is_kept for reply in replies] == [False, False, False, True, True]


@pytest.mark.parametrize("changed", ["identity", "text", "messages", "max_new_tokens"])
def test_another_model_or_question_is_asked_anew(changed: str) -> None:
    other = {
        "identity": answer_key("other", Request((), "a"), 5),
        "text": answer_key("echo 1", Request((), "b"), 5),
        "messages": answer_key("echo 1", Request((("user", "a"),), "a"), 5),
        "max_new_tokens": answer_key("echo 1", Request((), "a"), 6),
    }
    assert other[changed] != answer_key("echo 1", Request((), "a"), 5)


def test_which_messages_are_shared_changes_no_answer() -> None:
    messages = (("system", "s"), ("user", "a"))
    assert answer_key("m", Request(messages, None, 1), 5) == answer_key("m", Request(messages), 5)


def test_kill_9_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, "first", "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(40)]
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.read().splitlines()
    writer.wait()
    writer.stdout.close()
    with KeptAnswers(path) as kept:
        last = int(said[-1])
        assert last >= 39
        assert all(kept.find(f"first {number}") for number in range(last + 1))
        kept.keep("more", Reply("x", "stop", 1, 1))


def test_two_processes_keep_answers_in_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, "60"], stdout=subprocess.DEVNULL)
        for name in ("one", "two")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    with KeptAnswers(path) as kept:
        assert kept.num_replies == 120


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_text("no database, but long enough to be looked at as one " * 20)
    with pytest.raises(UserError) as refused:
        KeptAnswers(path)
    assert refused.value.code == "store-failed"
