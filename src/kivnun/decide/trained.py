"""Arms that are trained: a recipe of their own, run like any other, and then asked like every other arm."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import orjson

from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.formats.openai_chat import write_messages
from kivnun.data.prepare import tokenize_splits
from kivnun.data.reading import read_data
from kivnun.data.template import PromptTemplate
from kivnun.decide.arms import base_spec
from kivnun.decide.context import Context
from kivnun.errors import UserError
from kivnun.estimate.measure import measure_training
from kivnun.inputs import fit_context
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.pipeline import run_recipe
from kivnun.recipe.dump import dump_recipe
from kivnun.recipe.load import load_recipe
from kivnun.recipe.rules import list_files
from kivnun.recipe.schema import DataSection, Recipe, SplitSection
from kivnun.recipe.values import DataFiles
from kivnun.results import stage_durations, training_events
from kivnun.runs import open_run, read_events, write_atomic
from kivnun.runs.store import EVENTS_NAME
from kivnun.training.loop import make_plan

ROWS_FOLDER = "rows"
OTHER_SECTIONS = ("evaluation", "optimization", "retrieval", "decide", "search", "where")
"""Sections of the user's recipe that have no part in the training of an arm."""
MEASURE_SECONDS = 3.0


@dataclass(frozen=True)
class Trained:
    """What was trained.

    Attributes:
        folder: Its run folder.
        minutes: How long the training took, all attempts together.
    """

    folder: Path
    minutes: float


def train(context: Context, name: str, recipe: Recipe) -> Trained:
    """Run a recipe in a folder of the comparison, going on from what an earlier command left there.

    Args:
        context: The comparison.
        name: Of the run folder.
        recipe: What is trained.

    Raises:
        UserError: Whatever the training refuses.
    """
    path = context.folder / f"{name}.yaml"
    write_atomic(path, dump_recipe(recipe, with_defaults=False))
    context.log("training", {"arm": name})
    context.free_memory()
    with context.budget.timed(), open_run(context.folder / name) as run:
        run_recipe(load_recipe(path), run, show=context.log)
    _require_unseen(context, run.folder)
    return Trained(run.folder, training_minutes(run.folder))


def is_trained(context: Context, name: str) -> bool:
    """Whether an earlier command trained what belongs into a run folder of the comparison."""
    return (context.folder / name / "model").is_dir()


def training_minutes(run_dir: Path) -> float:
    """Minutes that a training took: the last attempt at its stage, or all its steps together where they took longer."""
    events = read_events(run_dir / EVENTS_NAME)
    steps = sum(float(cast("float", event["seconds"])) for event in training_events(events) if event["event"] == "step")
    return max(stage_durations(events).get("model", 0.0), steps) / 60


def _require_unseen(context: Context, run_dir: Path) -> None:
    """A training must not have read a test row: then the splits were cut otherwise than those that are measured."""
    lines = (run_dir / "dataset" / "train.jsonl").read_bytes().splitlines()
    seen = {cast("str", orjson.loads(line)["id"]) for line in lines}
    leaked = [row.scored.where for row in context.test if row.id in seen]
    if leaked:
        raise UserError(
            "test-leaked",
            f"{len(leaked)} test rows were read by the training in {run_dir}",
            details=leaked[:20],
            hint="name the splits one by one in data.train, data.validation and data.test",
        )


def tuned_recipe(context: Context, *, seed: int = 0) -> Recipe:
    """The user's recipe with nothing but what is trained, in the forms that every folder understands.

    Args:
        context: The comparison.
        seed: What is added to the recipe's own seed.
    """
    recipe = context.recipe.model_copy(update=dict.fromkeys(OTHER_SECTIONS))
    data = recipe.data.model_copy(
        update={name: _absolute(getattr(recipe.data, name)) for name in ("train", "validation", "test")}
    )
    training = recipe.training.model_copy(update={"seed": recipe.training.seed + seed})
    return recipe.model_copy(
        update={"data": data, "training": training, "base_model": _absolute_name(base_spec(recipe))}
    )


def rows_recipe(
    context: Context, files: Mapping[str, Path], *, max_seq_len: int | None = None, seed: int = 0
) -> Recipe:
    """The user's recipe on rows that this comparison wrote.

    Args:
        context: The comparison.
        files: Training rows, and validation rows where there are any, by split.
        max_seq_len: Longest row; that of the recipe if not given.
        seed: What is added to the recipe's own seed.
    """
    recipe = tuned_recipe(context, seed=seed)
    is_text = context.frozen.template.kind == "text"
    templates = {"prompt_template": "{prompt}", "answer_template": "{answer}"} if is_text else {"messages": "messages"}
    data = DataSection.model_validate(
        {
            **{split: str(path.resolve()) for split, path in files.items()},
            **templates,
            "split": SplitSection(validation=0, test=0, near_duplicates="ignore"),
            "max_seq_len": max_seq_len or recipe.data.max_seq_len,
            "on_too_long": recipe.data.on_too_long,
            "ignore_checks": recipe.data.ignore_checks,
        }
    )
    return recipe.model_copy(update={"data": data})


def write_rows(path: Path, rows: Sequence[Conversation], template: PromptTemplate) -> Path:
    """Write rows as the recipe of `rows_recipe` reads them: prompt and answer, or messages.

    Args:
        path: The file.
        rows: The rows.
        template: How they are written.
    """
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, "".join(json.dumps(_row(row, template), ensure_ascii=False) + "\n" for row in rows))
    return path


def with_prompt(conversation: Conversation, prompt: str) -> Conversation:
    """A row with another text in the turn before its answer."""
    turns = list(conversation.messages)
    place = max(number for number in range(conversation.answer_turn) if turns[number].role == "user")
    turns[place] = replace(turns[place], content=prompt)
    return replace(conversation, messages=tuple(turns))


def expected_seconds(context: Context, recipe: Recipe, letters: int) -> float:
    """How long a training will take: as the trainings before it, by the letters of their rows, or measured.

    Args:
        context: The comparison.
        recipe: What would be trained.
        letters: Letters of its rows.

    Raises:
        UserError: Whatever the training would refuse.
    """
    if context.training_speed is not None:
        return letters * context.training_speed
    base = resolve_model(base_spec(recipe))
    read = read_data(recipe.data, recipe.training.objective.kind)
    data, _ = fit_context(recipe.data, base, recipe.method)
    encoder = Encoder(load_tokenizer(base.folder))
    table = tokenize_splits(read.template, read.splits, data, encoder, recipe.training.objective).table("train")
    plan = make_plan(table.lengths(), recipe.training)
    num_tokens = sum(sum(plan.lengths[row] for row in rows) for _, rows in plan.batches(0))
    with context.budget.timed():
        measured = measure_training(recipe, recipe.method, base, table, seconds=MEASURE_SECONDS)
    expected, _, _ = measured.seconds(num_tokens)
    return expected


def count_letters(rows: Sequence[Conversation]) -> int:
    """Letters of all turns of some rows."""
    return sum(len(turn.content) for row in rows for turn in row.messages)


def _row(conversation: Conversation, template: PromptTemplate) -> dict[str, object]:
    if template.kind == "text":
        return {"prompt": conversation.messages[0].content, "answer": conversation.answer}
    return {"messages": write_messages(conversation.messages)}


def _absolute(files: DataFiles | None) -> DataFiles | None:
    """Data files by their whole paths; ids of data sets stay as they are."""
    if files is None:
        return None
    if isinstance(files, Mapping):
        return {name: _absolute_name(file) for name, file in files.items()}
    names = tuple(_absolute_name(file) for file in list_files(files))
    return names[0] if isinstance(files, str) else names


def _absolute_name(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name
