"""The limits of hosted services, each at its border."""

from dataclasses import replace

import pytest

from kivnun.data.checks.hosted import CHARACTERS_PER_TOKEN, SERVICES, Service, check_hosted_files, check_hosted_rows
from kivnun.data.checks.report import CheckedFile
from kivnun.data.conversation import Conversation, Image, Message

OPENAI, GEMINI = SERVICES["openai"], SERVICES["gemini"]
FILE = CheckedFile("a.jsonl", "jsonl", "openai-chat", "", "train", 50, 1_000)


def row(answer: str = "Yes.", **extra: object) -> Conversation:
    turns = (Message("user", "Well?", trained=False), Message("assistant", answer, trained=True))
    return Conversation(turns, {}, "a.jsonl:1", extra=extra)


def of_row(conversation: Conversation, service: Service = OPENAI, name: str = "openai-chat") -> list[str]:
    return [finding.code for finding in check_hosted_rows([conversation], [7], "a.jsonl", name, service)]


def of_files(*files: CheckedFile, service: Service = OPENAI) -> list[str]:
    return [finding.code for finding in check_hosted_files(files, service)]


def test_a_plain_row_and_a_plain_file_pass() -> None:
    assert (of_row(row()), of_files(FILE)) == ([], [])


@pytest.mark.parametrize("name", ["openai", "azure"])
def test_services_know_no_weight_between_0_and_1(name: str) -> None:
    asked, answer = row().messages
    half = Conversation((asked, replace(answer, weight=0.5)), {}, "a.jsonl:1")
    [finding] = check_hosted_rows([half], [7], "a.jsonl", "openai-chat", SERVICES[name])
    assert (finding.code, finding.where) == ("weight-invalid", "a.jsonl:7")
    assert finding.message == f"turn 2 has weight 0.5; {SERVICES[name].title} takes 0 and 1 alone"


@pytest.mark.parametrize("name", SERVICES)
def test_a_row_is_too_long_one_character_beyond_the_limit(name: str) -> None:
    service = SERVICES[name]
    room = CHARACTERS_PER_TOKEN * service.max_tokens - len("Well?")
    kind = service.formats[0]
    assert of_row(row("א" * room), service, kind) == []
    assert of_row(row("א" * (room + 1)), service, kind) == ["hosted-length"]


def test_unknown_keys_are_named_except_where_they_are_items_of_a_grader() -> None:
    (finding,) = check_hosted_rows([row(source="web", id=7)], [7], "a.jsonl", "openai-chat", OPENAI)
    assert (finding.code, finding.where) == ("hosted-field", "a.jsonl:7")
    assert finding.message == "OpenAI does not know 'id', 'source'"
    assert of_row(row(source="web"), name="openai-reinforcement") == []
    # Of another format the whole file is refused, which says it once.
    assert of_row(row(source="web"), name="alpaca") == []


@pytest.mark.parametrize(("rows", "found"), [(9, ["hosted-rows"]), (10, [])])
def test_openai_wants_ten_training_rows(rows: int, found: list[str]) -> None:
    assert of_files(replace(FILE, num_rows=rows)) == found


def test_rows_of_all_files_of_a_split_count_together_and_test_rows_do_not() -> None:
    assert of_files(replace(FILE, num_rows=5), replace(FILE, num_rows=5)) == []
    assert of_files(FILE, replace(FILE, num_rows=1, split="test")) == []


@pytest.mark.parametrize(("size", "found"), [(512_000_000, []), (512_000_001, ["hosted-size"])])
def test_openai_takes_512_megabytes(size: int, found: list[str]) -> None:
    assert of_files(replace(FILE, size_bytes=size)) == found


def test_gemini_takes_five_thousand_validation_rows_of_its_own_format() -> None:
    gemini = replace(FILE, format="gemini")
    assert of_files(gemini, replace(gemini, num_rows=5_000, split="validation"), service=GEMINI) == []
    assert of_files(gemini, replace(gemini, num_rows=5_001, split="validation"), service=GEMINI) == ["hosted-rows"]
    assert of_files(FILE, service=GEMINI) == ["hosted-format"]
    assert of_files(gemini, service=OPENAI) == ["hosted-format"]


@pytest.mark.parametrize("layout", ["csv", "json", "parquet"])
def test_other_layouts_than_jsonl_are_refused(layout: str) -> None:
    assert of_files(replace(FILE, layout=layout)) == ["hosted-format"]


def test_a_compressed_file_is_refused_by_its_name() -> None:
    assert of_files(replace(FILE, path="a.jsonl.gz")) == ["hosted-format"]


def test_reinforcement_wants_validation_rows_too() -> None:
    graded = replace(FILE, format="openai-reinforcement")
    assert of_files(graded) == ["hosted-rows"]
    assert of_files(graded, replace(graded, split="validation")) == []


def test_pictures_are_refused_where_pairs_are_of_text_only() -> None:
    seen = replace(row().messages[0], images=(Image(0, "https://x.example/cat.png"),))
    pair = replace(row(), messages=(seen, *row().messages[1:]))
    assert of_row(pair, name="openai-preference") == ["hosted-images"]
    assert of_row(pair) == []
