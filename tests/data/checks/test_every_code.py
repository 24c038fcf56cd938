"""Every code is found in a data set that has its fault and no other of its kind, at its very file and line."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
from broken import BROKEN, GOOD, ROWS, Broken, jsonl
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import WordLevel

from kivnun.data.checks.gather import MAX_NEAR_ROWS, Gathered, Scope, conclude
from kivnun.data.checks.hosted import SERVICES, check_hosted_files
from kivnun.data.checks.report import CheckedFile, CheckReport
from kivnun.data.checks.stream import CheckOptions, check_data
from kivnun.data.checks.token_pass import TokenPass
from kivnun.data.checks.tokens import TokenLimits
from kivnun.data.conversation import Conversation, Message
from kivnun.data.encode import Encoder
from kivnun.data.files.find import find_data
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats import FORMATS
from kivnun.models.load import DEFAULT_CHAT_TEMPLATE
from kivnun.models.types import Tokenizer

MAX_SEQ_LEN = 200
UNKNOWN, END = "<unk>", "</s>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


def write_a_system_turn_as_columns() -> Sequence[Finding]:
    turns = [Message(role, role, trained=role == "assistant") for role in ("system", "user", "assistant")]
    write = FORMATS["columns"].write or FORMATS["prompt-completion"].write
    assert write is not None
    with pytest.raises(RowError) as caught:
        write(Conversation(tuple(turns), {}, f"{ROWS}:3"))
    return caught.value.findings


def check_a_file_of_600_megabytes() -> Sequence[Finding]:
    file = CheckedFile(ROWS, "jsonl", "openai-chat", "", "train", 100, 600_000_000)
    return list(check_hosted_files([file], SERVICES["openai"]))


def check_more_rows_than_are_compared() -> Sequence[Finding]:
    file = CheckedFile(ROWS, "jsonl", "openai-chat", "", "train", MAX_NEAR_ROWS + 1, 1)
    report = conclude(Gathered(near=False, files=[file], num_rows=MAX_NEAR_ROWS + 1), Scope(), name="data")
    return [finding for found in report.found for finding in found.examples]


# Faults that no tiny file has, and the one of writing.
OTHERWISE: dict[str, tuple[Callable[[], Sequence[Finding]], str]] = {
    "format-loss": (write_a_system_turn_as_columns, f"{ROWS}:3"),
    "hosted-size": (check_a_file_of_600_megabytes, ROWS),
    "duplicate-not-searched": (check_more_rows_than_are_compared, ROWS),
}


@pytest.fixture(scope="module")
def encoders(encoder: Encoder) -> dict[str, Encoder]:
    def with_template(source: str | None) -> Encoder:
        tokenizer = deepcopy(encoder.tokenizer)
        tokenizer.chat_template = source
        return Encoder(tokenizer)

    pieces = [
        UNKNOWN,
        END,
        *sorted({*"<|im_start|>user assistant system\nHelloThiWhrkyUndma.?', "} | set(_hebrew())),
    ]
    letters = FastTokenizer(WordLevel({piece: place for place, piece in enumerate(pieces)}, unk_token=UNKNOWN))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    spelling = Tokenizer(tokenizer_object=letters, unk_token=UNKNOWN, eos_token=END)
    spelling.chat_template = DEFAULT_CHAT_TEMPLATE
    return {
        "chatml": encoder,
        "no template": with_template(None),
        "strict": with_template(NO_SYSTEM + DEFAULT_CHAT_TEMPLATE),
        "letters": Encoder(spelling),
    }


def _hebrew() -> str:
    return "".join(chr(code) for code in range(0x5D0, 0x5EB))


def check(broken: Broken, folder: Path, encoders: dict[str, Encoder]) -> CheckReport:
    for name, content in broken.files.items():
        (folder / name).write_bytes(content)
    name = next(iter(broken.files)) if len(broken.files) == 1 else "."
    tokens = TokenPass(encoders[broken.needs], TokenLimits(MAX_SEQ_LEN)) if broken.needs else None
    dataset = find_data(name)
    return check_data(dataset, CheckOptions(**broken.options, tokens=tokens))


def test_every_code_has_a_broken_data_set() -> None:
    assert sorted([*BROKEN, *OTHERWISE]) == sorted(CHECKS)


@pytest.mark.parametrize("code", BROKEN)
def test_a_fault_is_found_at_its_place(code: str, here: Path, encoders: dict[str, Encoder]) -> None:
    broken = BROKEN[code]
    report = check(broken, here, encoders)
    examples = [finding for found in report.found for finding in found.examples if finding.code == code]
    place = report.name if broken.place == "data" else broken.place
    assert place in [finding.where for finding in examples], [
        f"{finding.code} {finding.where} {finding.message}" for found in report.found for finding in found.examples
    ]
    assert all(finding.message and "\n" not in finding.message for finding in examples)


@pytest.mark.parametrize("code", OTHERWISE)
def test_a_fault_that_no_tiny_file_has_is_found_too(code: str) -> None:
    act, place = OTHERWISE[code]
    assert (code, place) in [(finding.code, finding.where) for finding in act()]


@pytest.mark.parametrize("code", BROKEN)
def test_the_good_rows_around_a_fault_are_not_blamed(code: str, here: Path, encoders: dict[str, Encoder]) -> None:
    """Errors name only the broken row: of the good rows before it there are none."""
    report = check(BROKEN[code], here, encoders)
    if not BROKEN[code].place.endswith(":3") or "wanted" in BROKEN[code].options:
        return
    blamed = [f for found in report.found if found.severity == "error" for f in found.examples if f.line in (1, 2)]
    assert blamed == []


def test_good_rows_alone_have_no_errors(here: Path, encoders: dict[str, Encoder]) -> None:
    report = check(Broken({ROWS: jsonl(*GOOD)}, ROWS), here, encoders)
    assert report.num_findings("error") == 0
    warnings = {found.code for found in report.found if found.severity == "warning"}
    assert warnings == {"rows-below-minimum"}
