"""Every data set at hand, and every snippet of the seeds, is shown by the bundled model with something to learn."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journey import Ended

from kivnun.cli.preview_rows import RowsWanted, show_data

SHARED = Path(__file__).parents[3] / "shared"
DATA, SEEDS = SHARED / "data", SHARED / "seeds"
FOLDERS = ("llamafactory_demos", "openai_ft_samples", "taskmaster4_pref", "super_ni")
FILES = [
    path for folder in FOLDERS for path in sorted((DATA / folder).glob("*.json*")) if path.name != "dataset_info.json"
]
OLD_SHAPES = ('{"input_text": ', '{"messages": ')

Run = Callable[..., Ended]


def show(kivnun_here: Run, *words: str | Path) -> list[dict[str, Any]]:
    ended = kivnun_here("preview", *words, "--json")
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.skipif(not FILES, reason="needs the shared data")
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_shown_by_the_bundled_model(folder: str) -> None:
    for path in (path for path in FILES if path.parent.name == folder):
        rows, _, _ = show_data(str(path), RowsWanted(None, [1, 2, 3]))
        assert [(row.where.rpartition(":")[0], row.problem) for row in rows] == [(str(path), "")] * 3
        for row in rows:
            assert {piece.role for piece in row.pieces} & {"trained", "rejected"}, path
            assert bool(row.rejected) == ("dpo" in path.name)


@pytest.mark.skipif(not FILES, reason="needs the shared data")
def test_tools_and_calls_are_shown_and_calls_are_trained(kivnun_here: Run) -> None:
    (row,) = show(kivnun_here, DATA / "openai_ft_samples" / "weather_chat_fine_tuning.jsonl", "--rows", "1")
    texts = {trained: "".join(piece["text"] for piece in row["pieces"] if piece["trained"] is trained)
             for trained in (True, False)}  # fmt: skip
    assert '{"type": "function", "function": {"name": "get_current_weather"' in texts[False]
    assert '{"name": "get_current_weather", "arguments": {"location": "San Francisco, CA"' in texts[True]


def seed_snippets() -> Iterator[str]:
    """Rows that stand in the seeds' text, each on a line of its own."""
    for path in sorted(SEEDS.glob("*.txt")):
        for line in path.read_text("utf-8").splitlines():
            if line.strip().startswith(OLD_SHAPES):
                yield line.strip()


@pytest.mark.skipif(not SEEDS.is_dir(), reason="needs the seeds")
def test_every_snippet_of_the_seeds_is_shown(kivnun_here: Run, tmp_path: Path) -> None:
    lines = list(seed_snippets())
    assert len(lines) >= 6
    read = 0
    for number, line in enumerate(lines):
        try:
            json.loads(line)
        except json.JSONDecodeError:
            continue
        read += 1
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line + "\n", "utf-8")
        (row,) = show(kivnun_here, path)
        assert row["problem"] is None, line
        learnt = "".join(piece["text"] for piece in row["pieces"] if piece["trained"])
        assert learnt.endswith("<|im_end|>")
        assert any("א" <= letter <= "ת" for letter in learnt)
    assert read >= 6


def test_the_page_of_hebrew_data_is_written_whole(kivnun_here: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nאני שמח מאוד,שמחה\nאני כועס,כעס\n", "utf-8")
    page = tmp_path / "page.html"
    ended = kivnun_here("preview", tmp_path / "rows.csv", "--html", page)
    assert (ended.status, ended.out) == (0, "")
    text = page.read_text("utf-8")
    assert text.rstrip().endswith("</html>")
    assert text.count('<section id="row-') == 2
    assert "since no --model was given" in ended.err
