"""Models behind endpoints, asked by the real SDKs over a real connection."""

import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from stand_in_service import Failure, Service, asked_text

from kivnun.asking.anthropic_model import AnthropicModel
from kivnun.asking.calling import Patience
from kivnun.asking.kept import KeptAnswers, ask_all
from kivnun.asking.open import open_model, quiet
from kivnun.asking.openai_model import OpenaiModel
from kivnun.asking.request import Request
from kivnun.asking.timing import summarise_times, time_all
from kivnun.errors import UserError

Events = list[tuple[str, dict[str, object]]]
BOTH = pytest.mark.parametrize("kind", ["openai", "anthropic"])


def open_service(
    service: Service, kind: str, events: Events | None = None, *, tries: int = 4, options: str = ""
) -> OpenaiModel | AnthropicModel:
    def log(event: str, fields: Mapping[str, object]) -> None:
        if events is not None:
            events.append((event, dict(fields)))

    model = open_model(getattr(service, kind) + options, log=log)
    assert isinstance(model, OpenaiModel | AnthropicModel)
    return replace(model, caller=replace(model.caller, patience=Patience(tries=tries, first_seconds=0.01)))


def requests_of(*texts: str) -> list[Request]:
    return [Request((("user", text),)) for text in texts]


def ask(model: OpenaiModel | AnthropicModel, *texts: str, kept: KeptAnswers | None = None) -> list[str]:
    kept = kept or KeptAnswers.in_memory()
    return [reply.text for reply in ask_all(model, requests_of(*texts), max_new_tokens=5, kept=kept, log=quiet)]


@BOTH
def test_replies_come_in_the_order_of_their_requests(service: Service, kind: str) -> None:
    service.reply = lambda request: asked_text(request).upper()
    letters = [f"row {number}" for number in range(20)]
    assert ask(open_service(service, kind), *letters) == [text.upper() for text in letters]


@BOTH
def test_no_more_requests_are_under_way_than_were_allowed(service: Service, kind: str) -> None:
    service.seconds = 0.02
    ask(open_service(service, kind, options="&parallel=3"), *(str(number) for number in range(12)))
    assert service.most_at_once == 3


@BOTH
@pytest.mark.parametrize("failure", [Failure(500), Failure(503), Failure(429), Failure(0)], ids=str)
def test_what_may_pass_is_tried_again_and_said(service: Service, kind: str, failure: Failure) -> None:
    service.failures = [failure, failure]
    events: Events = []
    assert ask(open_service(service, kind, events), "one") == ["yes"]
    seconds = [fields["seconds"] for event, fields in events if event == "retrying"]
    assert seconds == [0.01, 0.02]


@BOTH
def test_a_service_that_asks_to_wait_is_waited_for(service: Service, kind: str) -> None:
    service.failures = [Failure(429, {"retry-after": "0.2"})]
    events: Events = []
    begun = time.monotonic()
    assert ask(open_service(service, kind, events), "one") == ["yes"]
    assert time.monotonic() - begun >= 0.2
    assert events[0][1]["seconds"] == 0.2


def test_a_wait_may_be_told_as_a_date(service: Service) -> None:
    service.failures = [Failure(429, {"retry-after": formatdate(time.time() - 60, usegmt=True)})]
    events: Events = []
    assert ask(open_service(service, "openai", events), "one") == ["yes"]
    assert events[0][1]["seconds"] == 0.0


def test_a_service_that_asks_to_wait_for_hours_is_given_up(service: Service) -> None:
    service.failures = [Failure(429, {"retry-after": "7200"})]
    with pytest.raises(UserError, match="429") as refused:
        ask(open_service(service, "openai"), "one")
    assert refused.value.code == "endpoint-failed"


def test_a_used_up_quota_is_not_waited_for(service: Service) -> None:
    service.failures = [Failure(429, error={"code": "insufficient_quota", "message": "pay"})]
    with pytest.raises(UserError, match="pay"):
        ask(open_service(service, "openai"), "one")
    assert len(service.requests) == 1


@BOTH
def test_a_service_that_answers_too_late_is_given_up_after_its_tries(service: Service, kind: str) -> None:
    service.seconds = 0.4
    model = open_service(service, kind, tries=2, options="&timeout_seconds=0.1")
    with pytest.raises(UserError, match="no answer in time") as refused:
        ask(model, "one")
    assert refused.value.code == "endpoint-failed"
    assert len(service.requests) == 2


@BOTH
def test_a_refused_key_is_not_tried_again_and_not_shown(service: Service, kind: str) -> None:
    service.refuse = lambda request: Failure(401, error={"message": f"bad key {request['_key']}", "type": "x"})
    with pytest.raises(UserError, match="401") as refused:
        ask(open_service(service, kind), "one")
    assert len(service.requests) == 1
    assert "sk-very-secret" not in str(refused.value)
    assert "***" in str(refused.value)
    assert "STAND_IN_KEY" in refused.value.hint


@BOTH
def test_a_service_that_dies_half_way_is_asked_only_for_the_rest(service: Service, kind: str, tmp_path: Path) -> None:
    texts = [str(number) for number in range(10)]
    service.dies_after = 6
    with KeptAnswers(tmp_path / "answers.sqlite") as kept:
        with pytest.raises(UserError, match="cannot be reached"):
            ask(open_service(service, kind, tries=2, options="&parallel=2"), *texts, kept=kept)
        assert kept.num_replies == 6
    service.dies_after, asked = None, len(service.requests)
    with KeptAnswers(tmp_path / "answers.sqlite") as kept:
        assert ask(open_service(service, kind), *texts, kept=kept) == ["yes"] * 10
    assert len(service.requests) - asked == 4


@BOTH
def test_refused_content_is_a_reply_and_no_failure(service: Service, kind: str) -> None:
    service.finish = "content_filter" if kind == "openai" else "refused"
    model = open_service(service, kind)
    replies = ask_all(model, requests_of("one"), max_new_tokens=5, kept=KeptAnswers.in_memory(), log=quiet)
    assert replies[0].finished == "refused"


def test_content_that_is_refused_by_status_is_a_reply_too(service: Service) -> None:
    service.failures = [Failure(400, error={"code": "content_filter", "message": "no"})]
    model = open_service(service, "openai")
    replies = ask_all(model, requests_of("one"), max_new_tokens=5, kept=KeptAnswers.in_memory(), log=quiet)
    assert replies[0].finished == "refused"


@BOTH
def test_a_prompt_longer_than_the_context_says_so(service: Service, kind: str) -> None:
    error = {"code": "context_length_exceeded", "message": "prompt is too long", "type": "invalid_request_error"}
    service.failures = [Failure(400, error=error)]
    with pytest.raises(UserError, match="too long") as refused:
        ask(open_service(service, kind), "one")
    assert refused.value.code == "prompt-invalid"


def test_fields_that_a_newer_model_refuses_are_left_out_and_said(service: Service) -> None:
    def refuse(request: dict) -> Failure | None:
        if "max_tokens" in request:
            return Failure(400, error={"message": "use max_completion_tokens", "param": "max_tokens"})
        if "temperature" in request:
            return Failure(400, error={"message": "temperature is not supported", "param": "temperature"})
        return None

    service.refuse = refuse
    events: Events = []
    model = open_service(service, "openai", events)
    assert ask(model, "one", "two") == ["yes", "yes"]
    assert service.requests[-1]["max_completion_tokens"] == 5
    assert [event for event, _ in events] == ["adapted", "adapted"]


def test_the_longest_answer_and_no_randomness_are_asked_for(service: Service) -> None:
    ask(open_service(service, "openai"), "one")
    assert (service.requests[0]["max_tokens"], service.requests[0]["temperature"]) == (5, 0.0)


def test_tokens_are_counted_as_each_service_tells_them(service: Service) -> None:
    for kind, expected in (("openai", (10, 2, 4, 0)), ("anthropic", (10, 2, 3, 1))):
        kept = KeptAnswers.in_memory()
        (reply,) = ask_all(open_service(service, kind), requests_of("a"), max_new_tokens=5, kept=kept, log=quiet)
        tokens = (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens, reply.written_tokens)
        assert tokens == expected


def test_anthropic_keeps_shared_messages_ready_and_sees_the_first_request_alone(service: Service) -> None:
    service.seconds = 0.02
    messages = (("system", "be short"), ("user", "2"), ("assistant", "4"))
    requests = [Request((*messages, ("user", text)), shared_messages=3) for text in "abcd"]
    kept = KeptAnswers.in_memory()
    ask_all(open_service(service, "anthropic"), requests, max_new_tokens=5, kept=kept, log=quiet)
    sent = service.requests[0]
    assert sent["system"] == [{"type": "text", "text": "be short"}]
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in sent["messages"][2]["content"][0]
    assert service.most_at_once == 3


@BOTH
def test_a_request_alone_is_timed_to_its_first_and_last_letter(service: Service, kind: str) -> None:
    service.reply = lambda _request: "slowly"
    model = open_service(service, kind)
    kept = KeptAnswers.in_memory()
    replies = time_all(model, requests_of("a", "b"), max_new_tokens=5, kept=kept, log=quiet)
    assert len(service.requests) == 3
    assert [reply.text for reply in replies] == ["slowly"] * 2
    assert replies[0].seconds is not None
    assert replies[0].first_token_seconds is not None
    assert replies[0].first_token_seconds + 0.02 < replies[0].seconds
    times = summarise_times(replies)
    assert times is not None
    assert times.p50_ms <= times.p95_ms
    time_all(model, requests_of("a", "b"), max_new_tokens=5, kept=kept, log=quiet)
    assert len(service.requests) == 3


@BOTH
def test_what_is_no_answer_is_refused_with_the_address(service: Service, kind: str) -> None:
    model = open_service(service, kind)
    service.failures = [Failure(200)]
    with pytest.raises(UserError, match=r"answered something|at http://127") as refused:
        ask(model, "one")
    assert refused.value.code == "endpoint-failed"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("openai:", "no model"),
        ("openai:m?base=x", "unknown option base"),
        ("openai:m?parallel=0", "parallel must be"),
        ("anthropic:m?timeout_seconds=soon", "timeout_seconds must be"),
        ("anthropic:m?base_url=ftp://x", "no address"),
        ("openai:m", "needs a key"),
        ("anthropic:m", "needs a key"),
    ],
)
def test_an_endpoint_that_is_not_named_right_is_refused(
    spec: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=problem):
        open_model(spec)


def test_secrets_in_an_address_stand_neither_in_the_place_nor_in_the_name(service: Service) -> None:
    address = service.url.replace("http://", "http://user:hidden@")
    model = open_model(f"openai:tiny?base_url={address}/v1")
    assert "hidden" not in model.place + model.name + model.identity


@pytest.mark.parametrize("service", ["openai", "anthropic"])
def test_an_address_that_is_none_is_refused_without_the_secrets_in_it(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setenv("SOME_KEY", "k")
    with pytest.raises(UserError) as caught:
        open_model(f"{service}:m?base_url=user:pass-word@host/v1?token=t0ken&key_variable=SOME_KEY")
    assert "host/v1" in caught.value.problem
    assert "pass-word" not in str(caught.value) + caught.value.problem
    assert "t0ken" not in str(caught.value) + caught.value.problem
