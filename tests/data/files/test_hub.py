"""Data sets of the hub, from a server on this machine: only data is fetched, and the card's splits are followed."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from file_rows import fields_in
from hub_server import COMMIT, serve_hub
from huggingface_hub import constants
from tiny_data import refusal

from kivnun.data.files.cards import choose_parts
from kivnun.data.files.find import find_data
from kivnun.data.files.read import stream_rows

ROW = '{"text": "שלום"}\n'.encode()
PLAIN = {
    "README.md": b"# No front matter",
    "train.jsonl": ROW * 2,
    "data/test.jsonl.gz": ROW,
    "weights.bin": b"x",
    "plain.py": b"raise SystemExit",
    "rows.pkl": b"x",
}
CARD = b"""---
license: mit
configs:
- config_name: main
  data_files:
  - {split: train, path: "main/a-*.jsonl"}
  - split: test_sft
    path: ["main/b.jsonl", "main/x.pkl", "main/*.py", "../../outside.jsonl", "http://x/y.jsonl"]
- config_name: second
  data_dir: second
  data_files: "**/*.jsonl"
---
# Text
"""
SEVERAL = {
    "README.md": CARD,
    "main/a-1.jsonl": ROW,
    "main/a-2.jsonl": ROW,
    "main/b.jsonl": ROW,
    "main/x.pkl": ROW,
    "main/x.py": ROW,
    "second/c.jsonl": ROW,
    "second/deep/validation.jsonl": ROW,
}
SCRIPT = {"README.md": b"", "script.py": b"raise SystemExit"}
DATASETS: dict[str, Mapping[str, bytes]] = {"org/plain": PLAIN, "org/several": SEVERAL, "org/script": SCRIPT}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serve_hub(DATASETS) as (address, names):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield names


def test_the_data_files_of_a_data_set_are_fetched_and_nothing_else(here: Path, asked: list[str]) -> None:
    found = find_data("org/plain")
    assert {(file.path.name, file.layout, file.split) for file in found.files} == {
        ("train.jsonl", "jsonl", "train"),
        ("test.jsonl.gz", "jsonl", "test"),
    }
    assert sum(len(fields_in(list(stream_rows(file)))) for file in found.files) == 3
    assert set(asked) == {"README.md", "train.jsonl", "data/test.jsonl.gz"}
    assert all(f"commit {COMMIT[:12]}" in file.why for file in found.files)
    assert found.name == "org/plain"


def test_the_cards_configuration_says_which_files_and_splits(here: Path, asked: list[str]) -> None:
    found = find_data("org/several:main")
    assert {(file.path.name, file.split) for file in found.files} == {
        ("a-1.jsonl", "train"),
        ("a-2.jsonl", "train"),
        ("b.jsonl", "test"),
    }
    assert set(asked) == {"README.md", "main/a-1.jsonl", "main/a-2.jsonl", "main/b.jsonl"}
    assert "test by the card, configuration main, split test_sft" in found.files[-1].why
    second = find_data("org/several:second")
    assert {(file.path.name, file.split) for file in second.files} == {
        ("c.jsonl", "train"),
        ("validation.jsonl", "validation"),
    }


def test_several_configurations_are_not_chosen_from_in_silence(here: Path, asked: list[str]) -> None:
    error = refusal(lambda: find_data("org/several"))
    assert (error.code, error.problem) == ("data-format", "org/several has several configurations")
    assert error.details == ("main, second",)
    error = refusal(lambda: find_data("org/several:third"))
    assert error.problem == "org/several has no configuration 'third'"


def test_a_data_set_of_scripts_only_is_refused(here: Path, asked: list[str]) -> None:
    error = refusal(lambda: find_data("org/script"))
    assert (error.code, error.problem) == ("data-format", "org/script: no data files on the hub; scripts are not run")
    assert "script.py" not in asked


def test_a_data_set_that_is_not_there_is_missing(here: Path, asked: list[str]) -> None:
    error = refusal(lambda: find_data("org/nothing"))
    assert error.code == "data-missing"
    assert error.problem.startswith("org/nothing: not a file or folder here, and the hub did not give it: ")


def test_what_was_fetched_is_there_without_the_hub(
    here: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_data("org/plain", revision="main")
    asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(find_data("org/plain", revision="main").files) == 2
    assert asked == []


@pytest.mark.parametrize(
    ("front", "wanted", "patterns"),
    [
        ("configs: [{config_name: a, data_files: x.csv}]", "", [["x.csv"]]),
        ("configs: [{config_name: a, data_files: x}, {config_name: b, default: true, data_files: y}]", "", [["y"]]),
        ("configs: [{config_name: a, data_files: x}, {config_name: default, data_files: y}]", "", [["y"]]),
        ("configs: [{config_name: a, data_files: {train: x, test: [y, z]}}]", "a", [["x"], ["y", "z"]]),
        ("configs: [{config_name: a, data_dir: d/, data_files: '**/x'}]", "", [["d/**/x", "d/x"]]),
        ("configs: nonsense", "", []),
        ("configs: [{config_name: a}]", "", []),
        ("a: [broken", "", []),
        ("a: 2024-99-99", "", []),
        ("a: !!int word", "", []),
        ("a: " + "[" * 3000, "", []),
        ("", "", []),
    ],
)
def test_a_card_is_read_in_all_its_forms(here: Path, front: str, wanted: str, patterns: list[list[str]]) -> None:
    (here / "README.md").write_text(f"---\n{front}\n---\n# Text\n", "utf-8")
    assert [list(part.patterns) for part in choose_parts(here / "README.md", "org/name", wanted)] == patterns
