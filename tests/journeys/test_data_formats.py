"""The ways in which rows and models come: OpenAI messages, CSV, JSON, column files; adapters and whole models."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import EVALUATION, OPTIMIZATION, TRAINING_RECIPE, Ended, example_rows, finished_stages, write_jsonl
from safetensors.torch import load_file
from torch import equal

Command = Callable[..., Ended]
SHORT = ("--set", "training.max_steps=2", "--set", "training.save_every_steps=2")


def as_messages(row: dict[str, str]) -> dict[str, object]:
    """A row in the OpenAI format."""
    turns = (("system", "Name the tone."), ("user", row["phrase"]), ("assistant", row["tone"]))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def stored_rows(folder: Path) -> list[tuple[str, str]]:
    """What a run understood of its data: phrase and tone of every row, in any order."""
    lines = [
        json.loads(line)
        for split in ("train", "validation", "test")
        for line in (folder / "dataset" / f"{split}.jsonl").read_text("utf-8").splitlines()
    ]
    return sorted((line["fields"]["phrase"], line["answer"]) for line in lines)


def write_as(kind: str, work: Path) -> str:
    """The example rows in one format, and the recipe's `data.train` for them."""
    rows = example_rows()
    if kind == "csv":
        with (work / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, fieldnames=["phrase", "tone", "language"], quoting=csv.QUOTE_ALL)
            table.writeheader()
            table.writerows(rows)
        return "rows.csv"
    if kind == "json":
        (work / "rows.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
        return "rows.json"
    for column in ("phrase", "tone"):
        (work / f"{column}.txt").write_text("".join(row[column] + "\n" for row in rows), "utf-8")
    return "{phrase: phrase.txt, tone: tone.txt}"


@pytest.mark.parametrize("kind", ["csv", "json", "columns"])
def test_the_same_rows_in_another_format_are_the_same_data(kind: str, work: Path, kivnun_here: Command) -> None:
    recipe = (work / "recipe.yaml").read_text("utf-8").partition("evaluation")[0]
    (work / "recipe.yaml").write_text(recipe.replace("rows.jsonl", write_as(kind, work)), "utf-8")
    ended = kivnun_here("run", "recipe.yaml", *SHORT)
    assert ended.status == 0, ended.err
    assert stored_rows(work / "runs" / "recipe") == sorted((row["phrase"], row["tone"]) for row in example_rows())


def test_full_fine_tuning_on_openai_messages_ships_the_very_weights_that_were_trained(
    tiny_base: Path, work: Path, kivnun_here: Command
) -> None:
    recipe = TRAINING_RECIPE.replace('  text_template: "Text: {{phrase}}\\nTone: {{tone}}"\n', "").replace(
        "{{kind: lora, rank: 4, alpha: 8}}", "{{kind: full}}"
    )
    sections = "evaluation: {task: generation, max_new_tokens: 8, resamples: 100}\n"
    sections += OPTIMIZATION.replace("int4", "fp32")
    (work / "recipe.yaml").write_text(recipe.format(base=tiny_base) + sections, "utf-8")
    write_jsonl(work / "rows.jsonl", [as_messages(row) for row in example_rows()])
    ended = kivnun_here("run", "recipe.yaml", "--json", *SHORT)
    assert ended.status == 0, ended.err
    folder = work / "runs" / "recipe"
    parity = {row["name"]: row for row in json.loads(ended.out)["parity"]}
    assert parity["merged"]["identical"] == parity["merged"]["num_prompts"] == 12
    tuned = load_file(folder / "model" / "model.safetensors")
    merged = load_file(folder / "optimized" / "merged" / "model.safetensors")
    base = load_file(tiny_base / "model.safetensors")
    assert tuned.keys() == merged.keys() == base.keys()
    assert all(equal(tuned[name], merged[name]) for name in tuned)
    assert not any(equal(tuned[name], base[name]) for name in tuned)
    chat = kivnun_here("chat", folder, "--max-new-tokens", "3", stdin="Hello\nAnd now?\n")
    assert chat.status == 0, chat.err
    assert "Traceback" not in chat.err


def test_prompt_and_answer_templates_with_given_splits_need_no_cutting(work: Path, kivnun_here: Command) -> None:
    rows = example_rows()
    write_jsonl(work / "rows.jsonl", rows[:50])
    write_jsonl(work / "validation.jsonl", rows[50:58])
    write_jsonl(work / "test.jsonl", rows[58:])
    recipe = (work / "recipe.yaml").read_text("utf-8").partition("optimization")[0]
    recipe = recipe.replace(
        'text_template: "Text: {phrase}\\nTone: {tone}"',
        'prompt_template: "{phrase} =>"\n  answer_template: " {tone}"\n'
        "  validation: validation.jsonl\n  test: test.jsonl",
    ).replace("  split: {validation: 8, test: 12}\n", "")
    (work / "recipe.yaml").write_text(recipe, "utf-8")
    ended = kivnun_here("run", "recipe.yaml", *SHORT)
    assert ended.status == 0, ended.err
    assert "50 train, 8 validation, 14 test" in ended.err
    assert EVALUATION in recipe
    assert finished_stages(work / "runs" / "recipe") == {"dataset", "model", "evaluation"}
