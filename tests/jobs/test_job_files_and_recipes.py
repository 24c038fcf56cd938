"""A job's files and recipe, with the bundled model's own tokenizer; nothing is trained."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kivnun.cli.app import app
from kivnun.errors import UserError
from kivnun.jobs.hyperparameters import resolve
from kivnun.jobs.job_error import JobError, from_user_error, invalid_n_examples
from kivnun.jobs.job_files import find_closing
from kivnun.jobs.recipe_of_job import base_learning_rate, tracker_environment, write_recipe
from kivnun.jobs.validation import FilesOfJob, Validated, validate_files
from kivnun.jobs.validation_notes import say_accepted
from kivnun.recipe.load import load_recipe


def chat(question: str, answer: str = "Yes.") -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def preference(question: str, names: tuple[str, str] = ("preferred_output", "non_preferred_output")) -> str:
    turns = {"input": {"messages": [{"role": "user", "content": question}]}}
    answers = {name: [{"role": "assistant", "content": f"{name} of {question}"}] for name in names}
    return json.dumps({**turns, **answers})


CHATS = [chat(f"Question {number}?", f"Answer {number}.") for number in range(12)]


@dataclass
class Case:
    """A job's folder with its uploads."""

    root: Path

    def check(self, *lines: str, validation: list[str] | None = None, **wanted: Any) -> Validated | JobError:
        return self.check_bytes("".join(f"{line}\n" for line in lines).encode(), validation=validation, **wanted)

    def check_bytes(self, data: bytes, *, validation: list[str] | None = None, **wanted: Any) -> Validated | JobError:
        training, valid = self.root / "file-training", self.root / "file-validation"
        training.write_bytes(data)
        if validation is not None:
            valid.write_text("".join(f"{line}\n" for line in validation))
        given = {"model": "gpt-3.5-turbo", "base_model": "bundled", "method": "supervised", **wanted}
        return validate_files(FilesOfJob(training, valid if validation is not None else None, self.folder, **given))

    @property
    def folder(self) -> Path:
        return self.root / "job"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def accepted(result: Validated | JobError) -> Validated:
    assert isinstance(result, Validated), result
    return result


def refused(result: Validated | JobError) -> JobError:
    assert isinstance(result, JobError), result
    return result


def test_good_rows_are_taken_without_a_word(case: Case) -> None:
    found = accepted(case.check(*CHATS, validation=[chat("Another?")], strict=True))
    assert (found.num_rows, found.num_validation_rows, found.notes, found.accepted) == (12, 1, (), ())
    assert found.num_tokens > 12 * 5
    assert (case.folder / "training.jsonl").read_bytes() == (case.root / "file-training").read_bytes()
    assert (case.folder / "training.jsonl").samefile(case.root / "file-training")


def test_few_rows_are_refused_in_openais_words_or_warned_of(case: Case) -> None:
    error = refused(case.check(*CHATS[:7], strict=True))
    assert error.to_json() == {
        "code": "invalid_n_examples",
        "param": "training_file",
        "message": "Training file has 7 example(s), but must have at least 10 examples",
    }
    found = accepted(case.check(CHATS[0]))
    assert [note.level for note in found.notes] == ["warn"]
    assert "1 example(s)" in found.notes[0].message
    assert accepted(case.check(*CHATS[:10], strict=True)).notes == ()
    assert refused(case.check_bytes(b"")).code == "invalid_n_examples"
    assert refused(case.check_bytes(b"\n\n")).code == "invalid_n_examples"
    assert refused(case.check(*CHATS, validation=[])).param == "validation_file"


def test_brackets_left_open_are_closed_in_a_copy_and_the_line_is_named(case: Case) -> None:
    broken = chat("כן?", "כן.")[:-1]
    found = accepted(case.check(CHATS[0], broken))
    assert found.num_rows == 2
    note = found.notes[0]
    assert note.level == "warn"
    assert "line 2 (`}` added)" in note.message
    assert note.data == {"file": "training_file", "lines": [2], "count": 1}
    rows = [json.loads(line) for line in (case.folder / "training.jsonl").read_text("utf-8").splitlines()]
    assert rows[1] == json.loads(broken + "}")
    assert (case.root / "file-training").read_text("utf-8") == f"{CHATS[0]}\n{broken}\n"


def test_a_broken_line_refuses_the_file_with_its_number_where_files_are_judged_strictly(case: Case) -> None:
    error = refused(case.check(*CHATS, chat("x")[:-1], strict=True))
    assert (error.code, error.param) == ("invalid_file_format", "training_file")
    assert "Line 13" in error.message
    assert "line 13" in error.problems[0]


@pytest.mark.parametrize(
    "line", ["hello", '{"messages": [{"role": "user", "content": "cut off', chat("x") + "}", "[1]"]
)
def test_lines_broken_otherwise_always_refuse_the_file(line: str, case: Case) -> None:
    error = refused(case.check(CHATS[0], line, chat("y")[:-2]))
    assert error.code == "invalid_file_format"
    assert "Line 2" in error.message


def test_all_that_is_wrong_is_listed_with_its_lines(case: Case) -> None:
    no_answer = json.dumps({"messages": [{"role": "user", "content": "x"}]})
    error = refused(case.check(CHATS[0], "hello", CHATS[1], '{"messages": 1}', no_answer))
    assert [problem.partition(":")[0] for problem in error.problems] == ["line 2", "line 4", "line 5"]
    assert "(and 2 more problem(s))" in error.message
    assert str(case.root) not in f"{error}"


def test_rows_as_openai_allows_them_are_read(case: Case) -> None:
    tool = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    row = {
        "tools": [tool],
        "parallel_tool_calls": False,
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "Dana", "content": "Time?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
            {"role": "assistant", "content": "Noon.", "weight": 0},
            {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
            {"role": "assistant", "content": "Yes.", "weight": 1},
        ],
    }
    assert accepted(case.check(json.dumps(row))).num_rows == 1


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf" + CHATS[0].encode(), CHATS[0].encode() + b"\r\n", b"\n" + CHATS[0].encode() + b"\n\n"],
    ids=["byte-order mark", "carriage return", "empty lines"],
)
def test_files_of_other_editors_are_read(data: bytes, case: Case) -> None:
    assert accepted(case.check_bytes(data)).num_rows == 1


def test_a_packed_file_is_refused(case: Case) -> None:
    assert "packed (gz)" in refused(case.check_bytes(b"\x1f\x8b\x08\x00rest")).message


TABLES = {
    "as Vertex AI's": 'input_text,output_text\nHi,"Good day, you"\n',
    "quoted": '"prompt","completion"\r\n"Hi","Good day"\r\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_the_command_that_a_table_is_refused_with_makes_rows_of_it(kind: str, case: Case, tmp_path: Path) -> None:
    said = refused(case.check(TABLES[kind])).message
    command = re.search("`kivnun (convert IN rows.jsonl --to openai-chat)`", said)[1].split()
    table, rows = tmp_path / "table.csv", tmp_path / "rows.jsonl"
    table.write_text(TABLES[kind], "utf-8")
    words = [{"IN": str(table), "rows.jsonl": str(rows)}.get(word, word) for word in command]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    assert accepted(case.check_bytes(rows.read_bytes())).num_rows == 1


@pytest.mark.parametrize(
    "names", [("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion")]
)
def test_preferences_are_read_under_both_names(names: tuple[str, str], case: Case) -> None:
    assert accepted(case.check(preference("x", names), method="dpo")).formats == {"train": "openai-preference"}


def test_rows_must_fit_the_method(case: Case) -> None:
    assert "needs preference rows" in refused(case.check(CHATS[0], method="dpo")).message
    assert "needs chat rows" in refused(case.check(preference("x"))).message
    error = refused(case.check(preference("x"), validation=[CHATS[0]], method="dpo"))
    assert error.param == "validation_file"


def test_rows_that_are_too_long_are_left_out_aloud(case: Case) -> None:
    found = accepted(case.check(CHATS[0], chat("x", "word " * 3000), CHATS[1], validation=[CHATS[2]]))
    assert found.num_rows == 2
    said = next(note for note in found.notes if "longer than the model reads" in note.message)
    assert said.level == "warn"
    assert said.data == {"file": "training_file", "lines": [2], "count": 1}
    assert "longer than the model reads" in refused(case.check(chat("x", "word " * 3000))).message


def test_rows_in_which_a_sign_of_the_model_stands_are_refused(case: Case) -> None:
    assert "special token" in refused(case.check(chat("What is <|endoftext|>?"))).message


def test_what_hosted_services_accept_is_accepted_and_said(case: Case) -> None:
    found = accepted(case.check(chat("One?", ""), chat("Two?", "")))
    assert "answer-empty" in found.accepted
    said = next(note for note in found.notes if note.data and note.data.get("code") == "answer-empty")
    assert said.message.endswith(" (2 times, the first in line 1). Accepted, as a hosted service does")


def test_what_is_said_of_all_rows_is_not_counted() -> None:
    report = SimpleNamespace(found=[SimpleNamespace(code="label-single", summary="All alike.", count=1, examples=())])
    [note] = say_accepted(SimpleNamespace(report=report))
    assert note.message == "All alike. Accepted, as a hosted service does"


def test_completions_are_joined_as_they_stand_for_models_that_complete(case: Case) -> None:
    row = json.dumps({"prompt": "Once ->", "completion": " upon"})
    assert not accepted(case.check(row)).is_raw
    found = accepted(case.check(row, model="davinci-002"))
    assert found.is_raw
    assert any("/completions" in note.message for note in found.notes)
    turns = json.dumps({"prompt": [{"role": "user", "content": "x"}] * 2, "completion": " upon"})
    assert "texts" in refused(case.check(turns, model="davinci-002")).message


def test_rows_of_other_services_are_read_and_said(case: Case) -> None:
    row = {"contents": [{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": [{"text": "y"}]}]}
    found = accepted(case.check(json.dumps(row)))
    assert found.formats == {"train": "gemini"}
    assert any("gemini" in note.message for note in found.notes)
    assert refused(case.check(*[json.dumps(row)] * 10, strict=True)).code == "invalid_file_format"


def test_a_second_time_finds_the_same_though_the_upload_is_gone(case: Case) -> None:
    first = accepted(case.check(*CHATS))
    (case.root / "file-training").unlink()
    files = FilesOfJob(case.root / "file-training", None, case.folder, "gpt-3.5-turbo", "bundled", "supervised")
    assert validate_files(files) == first
    (case.folder / "training.jsonl").unlink()
    assert "does not exist" in refused(validate_files(files)).message


def test_a_model_that_is_not_there_fails_the_job_and_tells_no_path(case: Case) -> None:
    error = refused(case.check(*CHATS, base_model=str(case.folder / "nothing")))
    assert (error.code, error.param) == ("model_not_available", "model")
    assert str(case.folder) not in error.message


@given(st.lists(st.sampled_from(['"a"', '{"k": [', "[", '"\\"', "]", "}", ", ", ": 1"]), max_size=8).map("".join))
def test_closing_brackets_only_ever_completes_a_line(line: str) -> None:
    added = find_closing(line.encode())
    assert set(added) <= {"]", "}"}
    if added:
        assert isinstance(json.loads(line + added), dict)
        with pytest.raises(json.JSONDecodeError):
            json.loads(line)


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 25), (4, 25), (5, 20), (33, 3), (34, 3), (8333, 3), (8334, 2), (25_000, 1), (90_000, 1)]
)
def test_epochs_follow_the_cookbooks_rule(rows: int, epochs: int) -> None:
    assert resolve({"type": "supervised", "hyperparameters": {"n_epochs": "auto"}}, rows, 0)["n_epochs"] == epochs


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (500, 1), (1000, 2), (50_000, 100), (1_000_000, 256)])
def test_a_batch_has_a_five_hundredth_of_the_rows(rows: int, batch: int) -> None:
    assert resolve({"type": "supervised", "hyperparameters": {}}, rows, 0)["batch_size"] == batch


def test_numbers_that_were_given_stay() -> None:
    asked = {"type": "dpo", "hyperparameters": {"n_epochs": 7, "beta": "auto", "batch_size": 3}}
    expected = {"beta": 0.1, "n_epochs": 7, "batch_size": 3, "learning_rate_multiplier": 1.0}
    assert resolve(asked, 1000, 0) == expected
    assert "beta" not in resolve({"type": "supervised", "hyperparameters": {}}, 1000, 0)


@dataclass
class Job:
    """A job's row, as far as a recipe needs it."""

    id: str = "ftjob-abc"
    base_model: str = "bundled"
    seed: int = 2**31 - 1
    asked: dict[str, Any] = field(default_factory=lambda: {"type": "supervised"})
    integrations: list[Any] = field(default_factory=list)


def test_the_recipe_says_what_the_job_asked_for(case: Case) -> None:
    validated = accepted(case.check(*CHATS, validation=[chat("Another?")]))
    numbers = {"n_epochs": 4, "batch_size": 5, "learning_rate_multiplier": 0.5}
    job = Job(integrations=[{"type": "wandb", "wandb": {"project": "p"}}])
    recipe = load_recipe(write_recipe(job, case.folder, validated, numbers)).recipe
    assert (recipe.data.train, recipe.data.validation) == ("training.jsonl", "validation.jsonl")
    assert (recipe.data.split.validation, recipe.data.split.test, recipe.evaluation) == (0, 0, None)
    training = recipe.training
    assert (training.epochs, training.batch_size, training.seed) == (4.0, 5, 2**31 - 1)
    assert training.learning_rate == pytest.approx(0.5 * base_learning_rate("supervised", 256), rel=1e-3)
    assert (training.keep_epochs, training.token_accuracy, training.report_to) == (3, True, ("wandb",))
    assert (training.save_every_steps, training.save_every_seconds) == (None, 0.5)
    assert str(case.root) not in (case.folder / "recipe.yaml").read_text("utf-8")


def test_the_recipe_of_preferences_and_of_completions(case: Case) -> None:
    numbers = {"n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": 1.0, "beta": 0.3}
    validated = accepted(case.check(preference("x"), method="dpo"))
    path = write_recipe(Job(asked={"type": "dpo", "rank": 4}), case.folder, validated, numbers)
    recipe = load_recipe(path).recipe
    assert recipe.training.objective.model_dump()["beta"] == 0.3
    # It measures none, and an event that says so would puzzle whoever asked for no such thing.
    assert not recipe.training.token_accuracy
    assert recipe.method.model_dump()["rank"] == 4
    assert recipe.data.format == "openai-preference"
    validated = accepted(case.check(json.dumps({"prompt": "a", "completion": "b"}), model="babbage-002"))
    recipe = load_recipe(write_recipe(Job(), case.folder, validated, numbers)).recipe
    assert (recipe.data.prompt_template, recipe.data.answer_template) == ("{prompt}", "{completion}")


@pytest.mark.parametrize("multiplier", [5e-324, 1e-30, 1e300])
def test_every_multiplier_above_zero_gives_a_recipe(multiplier: float, case: Case) -> None:
    validated = accepted(case.check(*CHATS))
    numbers = {"n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": multiplier}
    assert load_recipe(write_recipe(Job(), case.folder, validated, numbers)).recipe.training.learning_rate > 0


def test_the_base_rate_falls_with_width_and_is_a_tenth_for_preferences() -> None:
    assert base_learning_rate("supervised", 2000) == 5e-4
    assert base_learning_rate("supervised", 4000) == pytest.approx(5e-4 * 2**-0.781, rel=1e-2)
    assert base_learning_rate("dpo", 2000) == pytest.approx(5e-5)


def test_trackers_are_told_by_the_environment() -> None:
    wandb = {"project": "p", "name": "n", "entity": "e", "tags": ["a", "b"]}
    expected = {"WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_ENTITY": "e", "WANDB_TAGS": "a,b"}
    assert tracker_environment([{"type": "wandb", "wandb": wandb}], "ftjob-x") == expected
    alone = tracker_environment([{"type": "wandb", "wandb": {"project": "p"}}], "ftjob-x")
    assert alone == {"WANDB_PROJECT": "p", "WANDB_NAME": "ftjob-x"}
    assert tracker_environment([], "ftjob-x") == {}


def test_errors_keep_no_folder_of_the_server(tmp_path: Path) -> None:
    error = UserError("data-field", f"{tmp_path}/training.jsonl:3: x", hint="mend it", details=[f"{tmp_path}/a"])
    told = from_user_error(error, tmp_path)
    assert told == JobError("invalid_file_format", "training.jsonl:3: x. Mend it.", "training_file", ("a",))
    assert invalid_n_examples(0, 1, param="validation_file").message.startswith("Validation file has 0 example(s)")


CP1255 = "".join(json.dumps({"prompt": "שלום", "completion": "כן"}, ensure_ascii=False) + "\n" for _ in range(11))
OTHER_FILES = {
    "an array": (("[\n" + ",\n".join(CHATS) + "\n]").encode(), "one JSON array: upload JSON Lines"),
    "an array in a line": (f"[{','.join(CHATS)}]".encode(), "`kivnun convert IN rows.jsonl --to openai-chat`"),
    "a table": (b"question,answer\nhow,so\n", "The file looks like a table (CSV)"),
    "utf-16": (("\n".join(CHATS) + "\n").encode("utf-16"), "Save the file as UTF-8"),
    "cp1255": (CP1255.encode("cp1255"), "Save the file as UTF-8"),
    "python's quotes": ("".join(f"{json.loads(line)}\n" for line in CHATS).encode(), "`json.dumps(row)`"),
    "no answer": (b'{"messages": [{"role": "user", "content": "x"}]}\n', "Add the answer."),
    "other keys": (b'{"a": "b"}\n', "Line 1: the rows look like no known format; keys in 1 row(s): `a`. Give each row"),
    "preferences": ("".join(f"{preference(str(n))}\n" for n in range(9)).encode(), "Ask for the method dpo"),
}


@pytest.mark.parametrize(("data", "advice"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_a_file_of_another_kind_is_refused_with_what_mends_it(case: Case, data: bytes, advice: str) -> None:
    assert advice in refused(case.check_bytes(data)).message


def test_a_line_that_was_closed_and_still_lacks_its_answer_is_told_as_cut(case: Case) -> None:
    cut = '{"messages": [{"role": "user", "content": "x"}'
    error = refused(case.check(*CHATS[:4], cut, *CHATS[5:]))
    assert (
        "Line 5: no assistant turn among 1 (user) (the line ended too early and was closed with `]}`" in error.message
    )
    assert "closed with `]}`" in error.problems[0]
    assert ["line 5 (`]}` added)" in note for note in error.notes] == [True]
