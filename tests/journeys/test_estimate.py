"""`kivnun estimate` through the command line, with real training steps."""

import json
from collections.abc import Callable
from pathlib import Path

from journey import Ended


def test_an_estimate_measures_both_methods_and_counts_what_a_run_would_read(
    work: Path, kivnun_here: Callable[..., Ended]
) -> None:
    planned = kivnun_here("run", "recipe.yaml", "--dry-run")
    ended = kivnun_here("estimate", "recipe.yaml", "--seconds", "0.1", "--json")
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert f"tokens: {found['tokens']:,} to train on, {found['trained_tokens']:,} of them learnt" in planned.out
    assert [entry["method"] for entry in found["methods"]] == ["lora", "full"]
    for entry in found["methods"]:
        expected, least, most = entry["seconds"]
        assert 0 < least <= expected <= most
        assert entry["measured"]["peak_bytes"] > entry["need"]["weights"]
    assert found["hosted"]
    assert not (work / "runs").exists(), "an estimate leaves nothing"


def test_a_file_of_the_current_folder_is_not_run(work: Path, kivnun_here: Callable[..., Ended]) -> None:
    (work / "json.py").write_text("raise SystemExit('this file was run')\n", "utf-8")
    ended = kivnun_here("estimate", "recipe.yaml", "--seconds", "0.1", "--json")
    assert ended.status == 0, ended.err


def test_without_measuring_the_table_says_so(work: Path, kivnun_here: Callable[..., Ended]) -> None:
    ended = kivnun_here("estimate", "recipe.yaml", "--no-measure")
    assert ended.status == 0, ended.err
    assert "not asked for" in ended.out
    assert "prices from" in ended.out


def test_the_price_table_is_written_once_and_used_when_it_is_named(
    work: Path, kivnun_here: Callable[..., Ended]
) -> None:
    assert kivnun_here("estimate", "--write-prices", "prices.yaml").status == 0
    assert kivnun_here("estimate", "--write-prices", "prices.yaml").status == 2
    table = (work / "prices.yaml").read_text("utf-8").replace("training: 25.00", "training: 1000000.0", 1)
    (work / "prices.yaml").write_text(table, "utf-8")
    ended = kivnun_here("estimate", "recipe.yaml", "--no-measure", "--prices", "prices.yaml", "--json")
    bill = json.loads(ended.out)["hosted"][0]
    assert bill["dollars"] == bill["billed_tokens"]
