"""New rows are asked for once, judged, and written with their origins; nothing held out comes in."""

import json
from pathlib import Path

import orjson
import pytest
from endpoint_state import Endpoint

from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.formats import FORMATS
from kivnun.data.rows import Row
from kivnun.enrichment.asking import ask_examples, ask_paraphrases, read_answer
from kivnun.enrichment.enrich import EnrichOptions, EnrichResult, enrich, plan_questions
from kivnun.enrichment.rows import EnrichRows, read_enrich_rows
from kivnun.enrichment.writers import endpoint_writer, local_writer
from kivnun.errors import UserError

OPENAI_CHAT = FORMATS["openai-chat"]
PHRASES = {
    "I lost my keys on the way home tonight": "sadness",
    "My sister is coming to visit us tomorrow": "joy",
    "שמעתי צעדים במדרגות באמצע הלילה": "fear",
}


def row(text: str, answer: str, line: int = 1) -> Conversation:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return OPENAI_CHAT.read(Row({"messages": turns}, "rows.jsonl", line))


ROWS = [row(text, answer, line) for line, (text, answer) in enumerate(PHRASES.items(), start=1)]


def make(
    endpoint: Endpoint, folder: Path, held_out: list[Conversation] | None = None, **options: object
) -> EnrichResult:
    writer = endpoint_writer(
        endpoint.url, "any", key_variable="TEST_KEY", temperature=0.5, max_new_tokens=100, parallel=2
    )
    chosen = EnrichOptions(**options)  # type: ignore[arg-type]
    read = EnrichRows(tuple(ROWS), (), tuple(held_out or []), OPENAI_CHAT, ())
    return enrich(read, writer, chosen, out=folder / "out.jsonl")


def texts_in(path: Path) -> list[str]:
    return [orjson.loads(line)["messages"][0]["content"] for line in path.read_bytes().splitlines()]


def test_paraphrases_keep_the_answer_and_stand_behind_the_rows_with_their_origin(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.reply = lambda request: json.dumps(
        ["יש מישהו בחדר המדרגות ואני לבד בבית"] if "שמעתי" in str(request) else ["What a day this was for all of us", 7]
    )
    result = make(endpoint, tmp_path)
    assert (result.rows, result.questions, result.offered, result.kept) == (3, 3, 5, 2)
    written = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert texts_in(tmp_path / "out.jsonl")[:3] == list(PHRASES)
    new = {entry["messages"][0]["content"]: entry["messages"][1]["content"] for entry in written[3:]}
    assert new == {"What a day this was for all of us": "sadness", "יש מישהו בחדר המדרגות ואני לבד בבית": "fear"}
    origins = [orjson.loads(line) for line in (tmp_path / "out.jsonl.origins.jsonl").read_bytes().splitlines()]
    assert [(entry["row"], entry["from"]) for entry in origins] == [(4, ["rows.jsonl:1"]), (5, ["rows.jsonl:3"])]
    assert {entry["model"] for entry in origins} == {"any"}
    # The second row was offered what the first one had been given, and numbers are no paraphrases.
    assert result.refused == {"it is not what was asked for": 2, "it is (nearly) a row that is there": 1}


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        ("I lost my keys, on the way home tonight!", "it is (nearly) a row that is there"),
        ("the door was locked when i came there last night", "it is (nearly) a row that is held out"),
        ("הלכתי הביתה ואין לי מפתחות", "it is in another script than its source"),
        ("Write to me at dana.levi@gmail.com about the lost keys", "check personal-email"),
        ("I lost my {{object}} on the way to {{place}} today", "check placeholder-text"),
    ],
)
def test_an_offer_is_refused_for_what_is_wrong_with_it(
    endpoint: Endpoint, tmp_path: Path, offer: str, reason: str
) -> None:
    endpoint.reply = lambda _request: json.dumps([offer])
    held_out = [row("The door was locked when I came there last night.", "fear")]
    result = make(endpoint, tmp_path, held_out, questions=1, seed=first_seed_for("I lost my keys"))
    assert (result.kept, result.refused) == (0, {reason: 1})
    assert texts_in(tmp_path / "out.jsonl") == list(PHRASES)


def first_seed_for(beginning: str) -> int:
    """A seed with which the row that begins so is the one that is asked about."""
    for seed in range(100):
        (question,) = plan_questions(ROWS, EnrichOptions(questions=1, seed=seed))
        if question.sources[0].messages[0].content.startswith(beginning):
            return seed
    raise AssertionError(beginning)


def test_new_examples_have_known_labels_only(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda _request: json.dumps(
        [
            {"input": "Nobody told me that the party was tonight", "answer": "surprise"},
            {"input": "The dog waited at the gate for a year", "answer": "sadness"},
            {"input": "", "answer": "joy"},
        ]
    )
    result = make(endpoint, tmp_path, kind="example", number=3, labels=("sadness", "joy", "fear"), only_new=True)
    assert texts_in(tmp_path / "out.jsonl") == ["The dog waited at the gate for a year"]
    assert result.refused == {"its answer is no known label": 1, "it is not what was asked for": 1}
    assert 'one of ["sadness", "joy", "fear"]' in endpoint.requests[0]["messages"][1]["content"]


def test_after_a_failure_only_the_rest_is_asked_and_the_key_is_never_shown(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    endpoint.reply = lambda request: json.dumps([f"Quite another thing, number {len(endpoint.requests)} of the day"])
    endpoint.fail_after = 2
    with pytest.raises(UserError) as caught:
        make(endpoint, tmp_path)
    assert caught.value.code == "endpoint-failed"
    assert "sk-very-secret" not in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
    endpoint.fail_after = None
    asked = len(endpoint.requests)
    result = make(endpoint, tmp_path)
    assert result.remembered >= 1
    assert len(endpoint.requests) - asked == 3 - result.remembered
    assert set(endpoint.keys) == {"Bearer sk-very-secret"}
    kept = (tmp_path / "out.jsonl.answers.jsonl").read_text("utf-8")
    assert "sk-very-secret" not in kept


def test_the_same_call_again_asks_nothing_and_writes_the_same(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda request: json.dumps([f"A new way to say it, found at {len(endpoint.requests)} o'clock"])
    make(endpoint, tmp_path)
    first, asked = (tmp_path / "out.jsonl").read_bytes(), len(endpoint.requests)
    result = make(endpoint, tmp_path)
    assert (len(endpoint.requests), result.remembered) == (asked, 3)
    assert (tmp_path / "out.jsonl").read_bytes() == first


def test_rows_that_were_there_stay_as_they_stand_in_their_file(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("id,text,label\n7,I liked the film very much,1\n", "utf-8")
    endpoint.reply = lambda _request: '["The film pleased me a great deal"]'
    writer = endpoint_writer(endpoint.url, "any", key_variable="K", temperature=0, max_new_tokens=9, parallel=1)
    read = read_enrich_rows(str(tmp_path / "reviews.csv"))
    enrich(read, writer, EnrichOptions(number=1), out=tmp_path / "more.csv")
    lines = (tmp_path / "more.csv").read_text("utf-8").splitlines()
    assert lines[0].split(",") == ["id", "text", "label"]
    assert lines[1] == "7,I liked the film very much,1"
    assert lines[2].endswith("The film pleased me a great deal,1")


def test_a_half_written_answer_is_asked_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda _request: "[]"
    make(endpoint, tmp_path)
    path = tmp_path / "out.jsonl.answers.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert make(endpoint, tmp_path).remembered == 2
    assert make(endpoint, tmp_path).remembered == 3


def test_the_order_of_the_file_does_not_change_what_is_asked() -> None:
    options = EnrichOptions(kind="example", questions=2)
    words = {question.messages for question in plan_questions(ROWS, options)}
    assert {question.messages for question in plan_questions(ROWS[::-1], options)} == words


def test_rows_with_tools_or_without_a_question_are_not_asked_about() -> None:
    call = Message("assistant", "", trained=True, tool_calls=(ToolCall("1", "find", "{}"),))
    unfit = [
        Conversation((Message("user", "a", trained=False), call), {}, "a:1"),
        Conversation((Message("assistant", "a", trained=True),), {}, "a:2"),
    ]
    with pytest.raises(UserError) as caught:
        plan_questions(unfit, EnrichOptions())
    assert caught.value.code == "enrich-nothing"


@pytest.mark.parametrize(
    "text", ["", "[" + "1" * 5_000 + "]", "no array", "[", '{"a": 1}', "[]", "[[[[", "[" * 100_000]
)
def test_an_answer_without_an_array_is_one_thing_that_was_not_asked_for(text: str) -> None:
    assert read_answer(ask_paraphrases(ROWS[0], 2), text) == ([], 1)
    assert read_answer(ask_examples(ROWS, 2), text) == ([], 1)


def test_half_an_emoji_in_an_answer_does_not_stop_the_rest(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda _request: r'["A broken sign \ud83d in this one", "The keys fell out of my bag today"]'
    result = make(endpoint, tmp_path, questions=1, seed=first_seed_for("I lost my keys"))
    assert (result.offered, result.kept) == (2, 1)
    assert texts_in(tmp_path / "out.jsonl")[-1] == "The keys fell out of my bag today"


@pytest.mark.parametrize("raw", [b"<html>a gateway</html>", b""])
def test_an_answer_of_another_kind_is_an_error_of_the_endpoint(endpoint: Endpoint, tmp_path: Path, raw: bytes) -> None:
    endpoint.raw = raw
    with pytest.raises(UserError) as caught:
        make(endpoint, tmp_path)
    assert caught.value.code == "endpoint-failed"


@pytest.mark.parametrize(("key", "address"), [("sk-עברית", "http://h/v1"), ("sk a", "http://h/v1"), ("k", "h:80/v1")])
def test_a_key_or_an_address_that_cannot_be_one_is_refused_at_once(
    key: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(UserError) as caught:
        endpoint_writer(address, "m", key_variable="TEST_KEY", temperature=0, max_new_tokens=9, parallel=1)
    assert caught.value.code == "endpoint-failed"


def test_answers_that_are_on_their_way_when_it_is_interrupted_are_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.seconds = 0.3
    endpoint.reply = lambda _request: json.dumps([f"Quite another thing, number {len(endpoint.requests)} of the day"])

    def interrupt(*_counts: int) -> None:
        raise KeyboardInterrupt

    read = EnrichRows(tuple(ROWS), (), (), OPENAI_CHAT, ())
    writer = endpoint_writer(endpoint.url, "any", key_variable="K", temperature=0.5, max_new_tokens=9, parallel=2)
    with pytest.raises(KeyboardInterrupt):
        enrich(read, writer, EnrichOptions(), out=tmp_path / "out.jsonl", show=interrupt)
    lines = (tmp_path / "out.jsonl.answers.jsonl").read_bytes().splitlines()
    assert len({orjson.loads(line)["question"] for line in lines}) == len(lines) == len(endpoint.requests)


def test_what_is_secret_in_an_address_is_not_written(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda _request: '["The keys fell out of my bag today"]'
    url = endpoint.url.replace("http://", "http://dana:secret@") + "?token=hidden"
    writer = endpoint_writer(url, "any", key_variable="K", temperature=0, max_new_tokens=9, parallel=1)
    assert writer.place == endpoint.url


def test_a_model_on_this_machine_is_asked_with_its_own_chat_template(tiny_model_folder: Path) -> None:
    writer = local_writer(str(tiny_model_folder), temperature=0.7, max_new_tokens=5)
    question = ask_paraphrases(row("hello", "joy"), 1)
    assert writer.ask([("user", "hello")], 3) == writer.ask([("user", "hello")], 3)
    assert writer.parallel == 1
    assert question.messages[0][0] == "system"
