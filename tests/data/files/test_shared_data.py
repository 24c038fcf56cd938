"""The real files beside the project, where they are: every one is read, with as many rows as its source has."""

from pathlib import Path

import pytest
from file_rows import found_in, rows_in, said_in

from kivnun.data.files.find import find_data
from kivnun.data.files.read import ReadOptions, stream_rows

SHARED = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")

# Rows by split.
COUNTS = {
    "llamafactory_demos": {"train": 91 + 999 + 300 + 299 + 300},
    "openai_ft_samples": {"train": 20},
    "taskmaster4_pref": {"train": 3228},
    "super_ni": {"train": 8357},
    "banking77": {"train": 10_003, "test": 3080},
    "gsm8k": {"train": 7473, "test": 1319},
    "dolly15k": {"train": 15_015},
    "e2e_nlg": {"validation": 4299, "test": 4693},
    "xquad_en": {"train": 3 * 1190},
    "snips_intents": {"train": 13_784, "validation": 700},
    "tweeteval": {"train": 3257, "validation": 374, "test": 1421},
    "hebrew_sentiment": {"train": 5926, "validation": 846, "test": 1695},
    "hebrew_sentiment_omilab": {"train": 10_244, "test": 2560},
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_file_is_read(name: str) -> None:
    counts: dict[str, int] = {}
    codes: list[str] = []
    for file in find_data(str(SHARED / name)).files:
        items = list(stream_rows(file, ReadOptions(encoding="cesu-8" if "PlayMusic_full" in file.path.name else None)))
        counts[file.split] = counts.get(file.split, 0) + len(rows_in(items))
        codes += [code for code, _ in found_in(items)]
    assert counts == COUNTS[name]
    assert set(codes) <= {"csv-no-header", "csv-unnamed-column"}


def test_the_file_that_is_not_utf_8_is_named_with_its_byte() -> None:
    files = {file.path.name: file for file in find_data(str(SHARED / "snips_intents")).files}
    said = said_in(list(stream_rows(files["train_PlayMusic_full.json"])))
    assert len(said) == 1
    place = "byte 40 of the line, offset 150732 of the file"
    assert said[0].endswith(f"train_PlayMusic_full.json:9091: byte 0xed is not UTF-8 ({place}); cesu-8 fits")
