"""Rows that are judged: two answers become two documents, KTO's rows are good or bad; what is no pair is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_data import refusal, section

from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset, read_summary, write_dataset
from kivnun.data.mismatched import add_mismatched
from kivnun.data.preflight import check_before_training
from kivnun.data.prepare import PreparedData, tokenize_splits
from kivnun.data.preview import show_prepared
from kivnun.data.reading import read_conversations, read_data
from kivnun.data.token_pieces import plain_text
from kivnun.data.tokens import TokenizedRow, make_table
from kivnun.recipe.objectives import DpoObjective, KtoObjective, Objective, OrpoObjective, SupervisedObjective
from kivnun.recipe.schema import DataSection

ALL_TRAIN = {"validation": 0, "test": 0}
DPO, ORPO, KTO, SUPERVISED = DpoObjective(), OrpoObjective(), KtoObjective(), SupervisedObjective()
ASK, GOOD, BAD = "What is the sun?", "A star, quite near.", "A lamp."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": text}


def gemini(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [{"text": text}]}


PAIRS: dict[str, dict[str, object]] = {
    "preference": {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    "openai-preference": {
        "input": {"messages": [user(ASK)]},
        "preferred_output": [assistant(GOOD)],
        "non_preferred_output": [assistant(BAD)],
    },
    "gemini-preference": {
        "contents": [gemini("user", ASK)],
        "completions": [
            {"score": 0, "completion": gemini("model", BAD)},
            {"score": 1, "completion": gemini("model", GOOD)},
        ],
    },
}


def pair(word: str, good: str = "", bad: str = "") -> dict[str, object]:
    return {"prompt": f"Say {word}", "chosen": good or f"Here it is: {word}", "rejected": bad or f"No {word}!"}


def judged(word: str, label: bool) -> dict[str, object]:
    return {"prompt": f"Say {word}", "completion": f"{'Yes' if label else 'No'}: {word}", "label": label}


def write(rows: Sequence[dict[str, object]], name: str = "train.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return name


def prepare(data: DataSection, objective: Objective, encoder: Encoder) -> PreparedData:
    return tokenize_splits(*read_conversations(data, objective.kind), data, encoder, objective)


def answer(prompt: Sequence[int], ids: Sequence[int]) -> TokenizedRow:
    return TokenizedRow([*prompt, *ids], [False] * len(prompt) + [True] * len(ids))


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("objective", [DPO, ORPO], ids=["dpo", "orpo"])
def test_a_preference_row_becomes_two_documents_with_one_prompt(
    here: Path, encoder: Encoder, row: dict[str, object], objective: Objective
) -> None:
    write([row])
    prepared = prepare(section(split=ALL_TRAIN), objective, encoder)
    table = prepared.table("train")
    assert (len(table), table.num_documents, table.documents_per_row) == (1, 2, 2)
    texts, prompts = [], []
    for document in range(2):
        ids, trained = table.input_ids(document), table.trained(document).astype(bool)
        texts.append(encoder.decode(ids[trained].tolist()))
        prompts.append(ids[: int(np.argmax(trained))].tolist())
    assert texts == [GOOD, BAD]
    assert prompts[0] == prompts[1] == prepared.splits["train"][0].prompt_ids
    assert ASK in encoder.decode(prompts[0])


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_a_preference_row_is_a_good_and_a_bad_row_for_kto(here: Path, encoder: Encoder, row: dict[str, object]) -> None:
    write([row])
    write([judged("moon", label=False), judged("sea", label=True)], "more.jsonl")
    prepared = prepare(section(["train.jsonl", "more.jsonl"], split=ALL_TRAIN), KTO, encoder)
    rows = prepared.splits["train"]
    assert [each.label for each in rows] == [1, 0, 0, 1]
    assert [encoder.decode(each.tokens.input_ids[len(each.prompt_ids) :]).strip() for each in rows] == [
        GOOD,
        BAD,
        "No: moon",
        "Yes: sea",
    ]
    table = prepared.table("train")
    assert table.labels.tolist() == [1, 0, 0, 1]
    assert table.documents_per_row == 2


def test_the_rejected_answer_is_left_out_where_it_is_not_learnt(here: Path, encoder: Encoder) -> None:
    write([pair("fog")])
    prepared = prepare(section(split=ALL_TRAIN), SUPERVISED, encoder)
    assert prepared.table("train").num_documents == 1
    assert "rejected answer, which is not learnt" in read_data(section(split=ALL_TRAIN), "supervised").notes[0]


@pytest.mark.parametrize("objective", [DPO, ORPO, KTO], ids=["dpo", "orpo", "kto"])
def test_a_rejected_answer_that_is_learnt_is_not_said_to_be_left_out(here: Path, objective: Objective) -> None:
    write([pair("fog")])
    assert read_data(section(split=ALL_TRAIN), objective.kind).notes == ()


@pytest.mark.parametrize("objective", [DPO, ORPO, KTO], ids=["dpo", "orpo", "kto"])
def test_plain_rows_are_refused_by_their_line(here: Path, encoder: Encoder, objective: Objective) -> None:
    write([{"messages": [user(word), assistant("yes")]} for word in ("fog", "rain")])
    write([pair("sun")], "pairs.jsonl")
    error = refusal(lambda: prepare(section(["train.jsonl", "pairs.jsonl"], split=ALL_TRAIN), objective, encoder))
    assert error.code == "preference-invalid"
    assert error.problem.startswith("2 of 3 row(s) have n")
    assert objective.kind in error.problem
    assert error.details == ("train.jsonl:1", "train.jsonl:2")
    assert "training.objective: supervised" in error.hint


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("objective", [DPO, ORPO, KTO], ids=["dpo", "orpo", "kto"])
def test_an_answer_that_counts_less_is_refused_where_two_are_compared(
    here: Path, encoder: Encoder, objective: Objective, side: str
) -> None:
    def rows(weight: float) -> list[dict[str, object]]:
        turn = {"role": "assistant", "content": "Grey.", "weight": weight}
        return [
            pair("fog"),
            {"prompt": [user("Say sun")], "chosen": [assistant("Hot")], "rejected": [assistant("No")]} | {side: [turn]},
        ]

    write(rows(0.5))
    error = refusal(lambda: prepare(section(split=ALL_TRAIN), objective, encoder))
    assert (error.code, error.details) == ("preference-invalid", ("train.jsonl:2: assistant has weight 0.5",))
    write(rows(1))
    prepare(section(split=ALL_TRAIN), objective, encoder)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_split_of_one_row_is_refused_where_kto_needs_another_rows_answer(
    here: Path, encoder: Encoder, name: str
) -> None:
    rows = {"train": [judged("fog", label=True), judged("sun", label=False)]}
    rows["validation"] = rows["test"] = [judged("sea", label=True), judged("sky", label=False)]

    def prepare_rows() -> PreparedData:
        files = {split: write(part, f"{split}.jsonl") for split, part in rows.items()}
        return prepare(section(**files), KTO, encoder)

    assert len(prepare_rows().splits["test"]) == 1  # the bad one is left out, and nothing is mismatched there
    rows[name] = rows[name][:1]
    error = refusal(prepare_rows)
    assert error.code == "preference-invalid"
    assert f"the {name} split has one row" in error.problem


def test_a_template_has_no_place_for_two_answers(here: Path, encoder: Encoder) -> None:
    write([pair("fog")])
    error = refusal(lambda: prepare(section(text_template="{prompt}\n{chosen}", split=ALL_TRAIN), DPO, encoder))
    assert error.code == "preference-invalid"


def test_two_answers_that_are_the_same_tokens_are_refused_by_their_line(here: Path, encoder: Encoder) -> None:
    write([pair("fog"), pair("sun", "the same", "the same"), pair("sea")])
    error = refusal(lambda: prepare(section(split=ALL_TRAIN), DPO, encoder))
    assert (error.code, error.details) == ("preference-invalid", ("train.jsonl:2",))
    assert "1 row(s)" in error.problem


def test_the_checks_refuse_two_equal_answers_before_that(here: Path, encoder: Encoder) -> None:
    write([pair("fog"), pair("sun", "the same", "the same"), pair("sea")])
    data = section(split=ALL_TRAIN)
    report = check_before_training(read_data(data, "dpo"), data, recipe="recipe.yaml", encoder=encoder)
    assert "preference-equal" in [found.code for found in report.found if found.severity == "error"]


@pytest.mark.parametrize(("objective", "is_refused"), [(KTO, True), (SUPERVISED, False)], ids=["kto", "supervised"])
def test_labels_that_are_all_alike_are_refused_where_they_are_learnt(
    here: Path, encoder: Encoder, objective: Objective, *, is_refused: bool
) -> None:
    write([judged(word, label=True) for word in ("fog", "sun", "sea")])
    data = section(split=ALL_TRAIN)
    report = check_before_training(read_data(data, objective.kind), data, recipe="recipe.yaml", encoder=encoder)
    assert ("kto-one-sided" in [found.code for found in report.found]) == is_refused


@pytest.mark.parametrize("long", ["chosen", "rejected"])
def test_a_pair_is_too_long_if_either_answer_is(here: Path, encoder: Encoder, long: str) -> None:
    rows = [pair("fog"), pair("sun") | {long: "very long " * 30}]
    write(rows)
    data = section(split=ALL_TRAIN, max_seq_len=64)
    error = refusal(lambda: prepare(data, DPO, encoder))
    assert error.code == "answer-cut"
    assert error.details[0].startswith("train.jsonl:2: ")
    prepared = prepare(data.model_copy(update={"on_too_long": "drop"}), DPO, encoder)
    assert prepared.dropped == {"longer than max_seq_len": 1}
    assert len(prepared.table("train")) == 1


def test_pairs_with_one_prompt_stay_in_one_split(here: Path, encoder: Encoder) -> None:
    words = [f"{noun} of {place}" for noun in ("fog", "sun", "sea", "rain", "wind") for place in ("Haifa", "Jaffa")]
    write([pair(word, bad=f"{bad} {word}") for word in words for bad in ("Not", "Never", "Nowhere")])
    prepared = prepare(section(split={"validation": 0.2, "test": 0.2}), DPO, encoder)
    homes = {}
    for name, rows in prepared.splits.items():
        for row in rows:
            assert homes.setdefault(row.conversation.messages[0].content, name) == name
    assert len(prepared.splits["test"]) >= 3


def test_the_test_rows_of_kto_have_right_answers(here: Path, encoder: Encoder) -> None:
    write([pair("fog")])
    write([judged("sea", label=True), judged("sun", label=False)], "judged.jsonl")
    pairs = prepare(section(test="train.jsonl", train="judged.jsonl", split={"validation": 0}), KTO, encoder)
    assert pairs.table("test").documents_per_row == 2
    assert pairs.dropped == {}
    both = section(test=["train.jsonl", "judged.jsonl"], train=write([pair("sky")], "t.jsonl"), split={"validation": 0})
    mixed = prepare(both, KTO, encoder)
    assert mixed.table("test").documents_per_row == 1
    assert [row.conversation.answer for row in mixed.splits["test"]] == ["Here it is: fog", "Yes: sea"]
    assert list(mixed.dropped.values()) == [1]


def test_the_data_set_folder_holds_both_answers(here: Path, encoder: Encoder) -> None:
    write([pair("fog"), pair("sun")])
    prepared = prepare(section(split=ALL_TRAIN), DPO, encoder)
    (here / "dataset").mkdir()
    write_dataset(prepared, here / "dataset")
    dataset = read_dataset(here / "dataset")
    rows = dataset.rows("train")
    assert [(row.answer, row.rejected, row.desirable) for row in rows] == [
        ("Here it is: fog", "No fog!", None),
        ("Here it is: sun", "No sun!", None),
    ]
    table = dataset.table("train")
    assert (len(table), table.documents_per_row) == (2, 2)
    counts = read_summary(here / "dataset")["splits"]["train"]
    assert counts == {"rows": 2, "tokens": table.num_tokens, "trained_tokens": table.num_trained}


def test_the_data_set_folder_tells_good_rows_from_bad_ones(here: Path, encoder: Encoder) -> None:
    write([pair("fog")])
    prepared = prepare(section(split=ALL_TRAIN), KTO, encoder)
    (here / "dataset").mkdir()
    write_dataset(prepared, here / "dataset")
    dataset = read_dataset(here / "dataset")
    assert [(row.answer, row.rejected, row.desirable) for row in dataset.rows("train")] == [
        ("Here it is: fog", "", True),
        ("No fog!", "", False),
    ]
    table = dataset.table("train")
    own = sum(int(table.trained(document).sum()) for document in (0, 2))
    assert read_summary(here / "dataset")["splits"]["train"]["trained_tokens"] == own


def test_a_preview_shows_both_answers(here: Path, encoder: Encoder) -> None:
    write([pair("fog")])
    [row] = prepare(section(split=ALL_TRAIN), DPO, encoder).splits["train"]
    shown = show_prepared(row, 1, encoder.tokenizer)
    assert "\u27e6Here it is: fog" in plain_text(shown.pieces)
    assert "\u27eaNo fog!" in plain_text(shown.rejected)
    assert "Say fog" not in plain_text(shown.rejected)
    assert "both answers are trained" in shown.notes[0]


def test_a_preview_tells_what_counts_less(here: Path, encoder: Encoder) -> None:
    write([{"messages": [user("fog?"), assistant("Grey.") | {"weight": 0.5}]}])
    [row] = prepare(section(split=ALL_TRAIN), SUPERVISED, encoder).splits["train"]
    notes = show_prepared(row, 1, encoder.tokenizer).notes
    assert notes == ("turn 2 (assistant) has weight 0.5: its tokens count that much",)


def test_a_preview_marks_what_kto_moves_away_from(here: Path, encoder: Encoder) -> None:
    write([pair("fog")])
    shown = [
        show_prepared(row, 1, encoder.tokenizer)
        for row in prepare(section(split=ALL_TRAIN), KTO, encoder).splits["train"]
    ]
    assert "\u27e6Here it is: fog" in plain_text(shown[0].pieces)
    assert "\u27eaNo fog!" in plain_text(shown[1].pieces)
    assert [row.notes[0] for row in shown] == ["label: desirable", "label: undesirable, to be avoided"]


def test_a_mismatched_answer_is_the_next_one_to_another_prompt():
    prompts = [[7, 8], [7, 8], [9], [5, 5, 5], [7, 8]]
    answers = [[20, 0], [21, 22, 23, 0], [30, 31, 32, 33, 34, 0], [40, 0], [50, 0]]
    rows = [answer(*each) for each in zip(prompts, answers, strict=True)]
    table = add_mismatched(make_table(rows, labels=[1, 0, 1, 0, 1]))
    assert len(table) == 5
    assert table.labels.tolist() == [1, 0, 1, 0, 1]
    assert [table.input_ids(2 * row).tolist() for row in range(5)] == [row.input_ids for row in rows]
    wanted = [[7, 8, *answers[2][:5]], [7, 8, *answers[2][:5]], [9, *answers[3]], [5, 5, 5, *answers[4]], [7, 8]]
    wanted[4] += answers[2][:5]
    assert [table.input_ids(2 * row + 1).tolist() for row in range(5)] == wanted
    for row, prompt in enumerate(prompts):
        trained = table.trained(2 * row + 1).tolist()
        assert trained == [0] * len(prompt) + [1] * (len(trained) - len(prompt))


def test_answers_to_one_prompt_are_mismatched_with_each_other():
    table = add_mismatched(make_table([answer([7], [20]), answer([7], [21])], labels=[1, 0]))
    assert [table.input_ids(document).tolist() for document in (1, 3)] == [[7, 21], [7, 20]]
