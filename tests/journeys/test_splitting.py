"""`kivnun split`: files cut into splits of the same layout, with a record; nothing is overwritten unasked."""

import csv
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, kivnun, write_jsonl

Command = Callable[..., Ended]
WORDS = (
    "sun",
    "rain",
    "wind",
    "snow",
    "fog",
    "hail",
    "ice",
    "dew",
    "storm",
    "frost",
    "שמש",
    "גשם",
    "רוח",
    "שלג",
    "ברד",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows())
    return tmp_path


def rows(count: int = 60) -> list[dict[str, object]]:
    return [
        {
            "text": f"{WORDS[number % 15]} {number}",
            "label": "joy" if number % 3 else "anger",
            "who": f"writer {number // 4}",
            "day": f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}",
            "tags": ["a", {"b": None}],
        }
        for number in range(count)
    ]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_splits(folder: Path) -> dict[str, list[dict[str, object]]]:
    return {path.stem: read(path) for path in sorted(folder.glob("*.jsonl"))}


def test_every_row_goes_to_one_file_unchanged_and_in_its_order(here: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("split", "rows.jsonl", "out", "--test", "0.2")
    assert ended.status == 0, ended.err
    splits = read_splits(here / "out")
    assert {name: len(part) for name, part in splits.items()} == {"train": 42, "validation": 6, "test": 12}
    order = [json.dumps(row) for row in rows()]
    for part in splits.values():
        places = [order.index(json.dumps(row)) for row in part]
        assert places == sorted(places)
    assert sorted(json.dumps(row) for part in splits.values() for row in part) == sorted(order)
    assert "wrote 42 row(s) to out/train.jsonl" in ended.out
    assert "read rows.jsonl as columns: the columns `text` and `label`" in ended.err


def test_the_record_says_what_went_where_and_why(here: Path, kivnun_here: Command) -> None:
    kivnun_here("split", "rows.jsonl", "out", "--test", "5", "--validation", "0", "--seed", "3")
    record = json.loads((here / "out" / "split.json").read_text("utf-8"))
    assert record["splits"] == {"train": {"rows": 55, "file": "train.jsonl"}, "test": {"rows": 5, "file": "test.jsonl"}}
    assert record["split"]["seed"] == 3
    assert record["files"][0]["format"].startswith("columns: ")
    assert len(record["files"][0]["sha256"]["rows.jsonl"]) == 64
    tested = [rows()[line - 1] for line in record["rows"]["rows.jsonl"]["test"]]
    assert tested == read(here / "out" / "test.jsonl")


def test_the_same_rows_in_another_order_are_cut_alike(here: Path, kivnun_here: Command) -> None:
    write_jsonl(here / "turned.jsonl", rows()[::-1])
    kivnun_here("split", "rows.jsonl", "one")
    kivnun_here("split", "turned.jsonl", "two")
    one, two = read_splits(here / "one"), read_splits(here / "two")
    assert {name: part[::-1] for name, part in two.items()} == one


def test_the_recipe_that_says_the_same_cuts_the_same_rows(here: Path, kivnun_here: Command) -> None:
    from kivnun.data.reading import read_data
    from kivnun.recipe.schema import DataSection

    kivnun_here("split", "rows.jsonl", "out", "--stratify-by", "label", "--test", "0.25", "--seed", "7")
    split = {"validation": 0.1, "test": 0.25, "stratify_by": "label", "seed": 7}
    found = read_data(DataSection.model_validate({"train": "rows.jsonl", "split": split}), "supervised").splits
    for name, part in read_splits(here / "out").items():
        assert [row["text"] for row in part] == [row.fields["text"] for row in found[name]]


def test_the_newest_rows_test(here: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("split", "rows.jsonl", "out", "--by", "time:day", "--test", "6")
    splits = read_splits(here / "out")
    assert [row["day"] for row in splits["test"]] == [row["day"] for row in rows()[-6:]]
    assert max(row["day"] for row in splits["train"]) < min(row["day"] for row in splits["validation"])
    assert "note: test: rows from 2024-02-27 on" in ended.err


def test_rows_of_one_value_stay_together(here: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("split", "rows.jsonl", "out", "--by", "group:who", "--test", "10")
    assert ended.status == 0, ended.err
    writers = {name: {row["who"] for row in part} for name, part in read_splits(here / "out").items()}
    assert not writers["train"] & writers["test"]
    assert not writers["train"] & writers["validation"]
    assert "note: test: 8 different row(s) in place of 10, since rows stay together (up to 4)" in ended.err


def test_copies_never_stand_on_both_sides(here: Path, kivnun_here: Command) -> None:
    chance = random.Random(5)  # noqa: S311
    texts = [" ".join(chance.choices(WORDS, k=10)) for _ in range(40)]
    copies = [{"text": text + ending, "label": "joy"} for text in texts for ending in ("", "!", " .")]
    write_jsonl(here / "copies.jsonl", copies)
    kivnun_here("split", "copies.jsonl", "out", "--test", "0.3")
    found = {name: {str(row["text"]).rstrip(" .!") for row in part} for name, part in read_splits(here / "out").items()}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    checked = kivnun_here("check", "out", "--json")
    assert not {"leak-exact", "leak-near", "leak-large"} & {each["code"] for each in json.loads(checked.out)["found"]}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.json", "rows.jsonl.gz", "rows.parquet"])
def test_the_layout_of_the_input_is_kept(name: str, here: Path, kivnun_here: Command) -> None:
    plain = [{"text": row["text"], "label": row["label"]} for row in rows()]
    write_jsonl(here / "plain.jsonl", plain)
    if name.endswith(".gz"):
        Path(name).write_bytes(gzip.compress((here / "plain.jsonl").read_bytes()))
    else:
        assert kivnun_here("convert", "plain.jsonl", name, "--to", "columns").status == 0
    ended = kivnun_here("split", name, "out")
    assert ended.status == 0, ended.err
    ending = name.partition(".")[2]
    written = sorted(path.name for path in (here / "out").iterdir())
    assert written == sorted(["split.json", *(f"{split}.{ending}" for split in ("train", "validation", "test"))])
    if ending == "csv":
        with (here / "out" / "train.csv").open(encoding="utf-8", newline="") as file:
            assert len(list(csv.DictReader(file))) == 48


def test_a_layout_that_is_only_read_becomes_jsonl_and_that_is_said(here: Path, kivnun_here: Command) -> None:
    (here / "set").mkdir()
    for number, word in enumerate(WORDS):
        (here / "set" / f"{number}.txt").write_text(f"a tale of {word}", "utf-8")
    ended = kivnun_here("split", "set", "out")
    assert ended.status == 0, ended.err
    assert sum(map(len, read_splits(here / "out").values())) == 15
    assert "note: the rows are written as JSONL" in ended.err


def test_rows_of_no_known_format_are_cut_as_well(here: Path, kivnun_here: Command) -> None:
    write_jsonl(here / "odd.jsonl", [{"alpha": f"{word} {word}", "beta": number} for number, word in enumerate(WORDS)])
    ended = kivnun_here("split", "odd.jsonl", "out", "--test", "3")
    assert ended.status == 0, ended.err
    assert len(read(here / "out" / "test.jsonl")) == 3
    assert "read odd.jsonl as unknown: " in ended.err


def test_a_dry_run_writes_nothing_and_says_the_same_counts(here: Path, kivnun_here: Command) -> None:
    before = sorted(here.rglob("*"))
    planned = json.loads(kivnun_here("split", "rows.jsonl", "out", "--dry-run", "--json").out)
    assert sorted(here.rglob("*")) == before
    done = json.loads(kivnun_here("split", "rows.jsonl", "out", "--json").out)
    assert {name: part["rows"] for name, part in planned["splits"].items()} == {
        name: part["rows"] for name, part in done["splits"].items()
    }


def test_an_earlier_split_is_replaced_only_if_that_is_wanted(here: Path, kivnun_here: Command) -> None:
    (here / "out").mkdir()
    (here / "out" / "test.md").write_text("mine", "utf-8")
    assert kivnun_here("split", "rows.jsonl", "out").status == 0
    before = (here / "out" / "test.jsonl").read_bytes()
    refused = kivnun_here("split", "rows.jsonl", "out", "--seed", "1")
    assert refused.status == 2
    assert "error[file-exists]: out/split.json exists" in refused.err
    assert (here / "out" / "test.jsonl").read_bytes() == before
    assert kivnun_here("split", "rows.jsonl", "out", "--seed", "1", "--validation", "0", "--force").status == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "split.json",
        "test.jsonl",
        "test.md",
        "train.jsonl",
    ]
    assert (here / "out" / "test.jsonl").read_bytes() != before


def test_what_is_being_split_is_never_overwritten(here: Path, kivnun_here: Command) -> None:
    write_jsonl(here / "train.jsonl", rows())
    ended = kivnun_here("split", "train.jsonl", ".", "--force")
    assert ended.status == 2
    assert "train.jsonl is what is being split" in ended.err
    assert read(here / "train.jsonl") == rows()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--by", "moon"), "'moon' is not random, time:COLUMN or group:COLUMN"),
        (("--by", "time:mood"), "error[template-field]: the rows have no column 'mood' of times"),
        (("--stratify-by", "mood"), "error[template-field]: the rows have no column 'mood' to stratify by"),
        (("--by", "time:text"), "rows.jsonl:1: field 'text' is no date and no number: 'sun 0'"),
        (("--test", "many"), "--test: 'many' is no share and no number of rows"),
        (("--test", "1.5"), "a fraction should be at least 0 and below 1"),
        (("--test", "60"), "error[split-too-small]: 60 different row(s) cannot give"),
        (("--by", "time:day", "--stratify-by", "label"), "cannot stand beside time_by"),
    ],
)
def test_a_mistake_is_refused_and_writes_nothing(
    options: tuple[str, ...], says: str, here: Path, kivnun_here: Command
) -> None:
    ended = kivnun_here("split", "rows.jsonl", "out", *options)
    assert ended.status == 2
    assert says in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err
    assert not list(here.glob("out/*"))


def test_a_broken_line_is_named_and_nothing_is_written(here: Path, kivnun_here: Command) -> None:
    with (here / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": \n')
    ended = kivnun_here("split", "rows.jsonl", "out")
    assert ended.status == 2
    assert "error[data-malformed]: rows.jsonl: 1 problem(s)" in ended.err
    assert "rows.jsonl:61" in ended.err
    assert not (here / "out").exists()


def test_the_installed_command_splits_without_loading_torch(here: Path) -> None:
    ended = kivnun("split", "rows.jsonl", "out", work=here)
    assert ended.status == 0, ended.err
    assert (here / "out" / "split.json").is_file()
