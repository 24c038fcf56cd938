"""What every part of a comparison gets: the frozen rows, how they are scored, what is kept, and what may be used."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kivnun.asking.kept import KeptAnswers
from kivnun.asking.open import open_model
from kivnun.asking.request import AskedModel, Log
from kivnun.data.reading import read_data
from kivnun.data.split import SPLITS
from kivnun.decide.arms import base_spec
from kivnun.decide.budget import Budget, open_budget
from kivnun.decide.costs import Pricing, pricing_of
from kivnun.decide.freeze import Frozen, freeze_rows, require_same
from kivnun.decide.passages import Passages, located_section
from kivnun.decide.probe import read_probe
from kivnun.decide.prompting import Prompter
from kivnun.decide.rows import DecideRow, RowColumns, make_rows, require_gold, sample, score_rows_of
from kivnun.decide.shots import NearestExamples
from kivnun.errors import UserError
from kivnun.evaluation.scoring import Scoring, scoring_of
from kivnun.recipe.decide import DecideSection
from kivnun.recipe.load import DATA_FILES, LoadedRecipe, located_recipe
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.recipe.schema import EvaluationSection, Recipe
from kivnun.recipe.training import COMPUTING_SETTINGS
from kivnun.retrieval.index_manifest import without_password

FREE_SETTINGS = frozenset(
    (
        *("arms", "models", "min_gain", "max_regret", "budget_minutes", "budget_dollars", "machine_dollars_per_hour"),
        *("expected_requests", "max_latency_ms", "max_dollars_per_1000", "max_stale_minutes"),
    )
)
"""Settings that change what is compared or chosen, and no answer: they may change while a comparison goes on."""
ALLOWED_CHECK = "leak-near"
"""The check by which a recipe accepts test rows that are nearly training rows, in `data.ignore_checks`."""
ANSWERS_NAME = "answers.sqlite"


@dataclass
class Context:
    """A comparison under way.

    Attributes:
        recipe: The recipe, paths as they are found from here.
        settings: Its `decide` section.
        evaluation: Its `evaluation` section.
        folder: The folder of the comparison.
        frozen: The rows as they were frozen.
        rows: The rows by split.
        pilot: Validation rows on which arms are tried.
        scoring: How answers are scored.
        pricing: What things cost.
        budget: What may be used.
        kept: Answers that are kept.
        log: Takes every event.
        fixed: Hash of everything that a finished arm depends on beside its model and documents.
        passages: What the index finds; None where there is none.
        why_no_passages: Why there is none.
        nearest: The training rows by their words; made by the first arm that needs it.
        training_speed: Seconds for a letter of the training rows, as the latest training took them.
        notes: What a reader must know; grows.
    """

    recipe: Recipe
    settings: DecideSection
    evaluation: EvaluationSection
    folder: Path
    frozen: Frozen
    rows: Mapping[str, Sequence[DecideRow]]
    pilot: Sequence[DecideRow]
    scoring: Scoring
    pricing: Pricing
    budget: Budget
    kept: KeptAnswers
    log: Log
    fixed: str
    passages: Passages | None = None
    why_no_passages: str = "the recipe has no `retrieval` section"
    nearest: NearestExamples | None = None
    training_speed: float | None = None
    notes: list[str] = field(default_factory=list[str])
    _models: dict[str, AskedModel] = field(default_factory=dict[str, AskedModel])

    @property
    def test(self) -> Sequence[DecideRow]:
        """The test rows."""
        return self.rows["test"]

    def model(self, spec: str) -> AskedModel:
        """A model by its name, opened once.

        Raises:
            UserError: Whatever keeps it from being asked.
        """
        if spec not in self._models:
            self._models[spec] = open_model(spec, kind=self._kind(spec), log=self.log)
        return self._models[spec]

    def _kind(self, spec: str) -> Literal["text", "chat"] | None:
        """How a model of this machine is asked; None as its own template says.

        The base model is asked as it will be tuned. Chats are asked as chats, even of a model without a template of its
        own, which then gets the one that its tuning would give it.
        """
        if self.frozen.template.kind == "chat":
            return "chat"
        return "text" if spec == self.recipe.base_model else None

    def free_memory(self) -> None:
        """Give the memory of every model free; each is opened again when it is asked again."""
        self._models.clear()

    def forget(self, spec: str) -> None:
        """Give the memory of a model free."""
        self._models.pop(spec, None)

    def prompter(self, model: AskedModel, *, is_tuned: bool = False) -> Prompter:
        """How a model is asked; one that was tuned on the rows is told nothing before."""
        instruction = None if is_tuned else self.settings.instruction
        return Prompter(model, self.frozen.template, instruction, self.evaluation.max_new_tokens, self.recipe.retrieval)

    def note(self, text: str) -> None:
        """Add what a reader must know, once."""
        if text not in self.notes:
            self.notes.append(text)


def located(loaded: LoadedRecipe) -> Recipe:
    """The recipe of a comparison with all its paths as they are found from here.

    Raises:
        UserError: `recipe-invalid` without a `decide` section.
    """
    recipe = located_recipe(loaded)
    decide, evaluation = sections_of(recipe)
    retrieval = recipe.retrieval
    if retrieval is not None:
        retrieval = located_section(loaded, retrieval)
    if decide.probe is not None:
        decide = decide.model_copy(update={"probe": str(loaded.locate(decide.probe))})
    if evaluation.json_schema is not None:
        evaluation = evaluation.model_copy(update={"json_schema": str(loaded.locate(evaluation.json_schema))})
    return recipe.model_copy(update={"retrieval": retrieval, "decide": decide, "evaluation": evaluation})


def sections_of(recipe: Recipe) -> tuple[DecideSection, EvaluationSection]:
    """The two sections that no comparison can be made without; a recipe with the first one has the second.

    Raises:
        UserError: `recipe-invalid` without a `decide` section.
    """
    if recipe.decide is None or recipe.evaluation is None:
        hint = "add `decide: {}` for the defaults; `kivnun recipe explain decide` lists what can be set"
        raise UserError("recipe-invalid", "the recipe has no `decide` section", hint=hint)
    return recipe.decide, recipe.evaluation


def open_context(recipe: Recipe, folder: Path, *, kept: KeptAnswers, log: Log) -> Context:
    """Read and freeze the rows, and gather what every arm needs.

    Args:
        recipe: As `located` gives it.
        folder: The folder of the comparison, which this process holds.
        kept: Its file of answers.
        log: Takes every event.

    Raises:
        UserError: Whatever is wrong with the rows; `decide-differs` where the folder holds another comparison.
    """
    settings, evaluation = sections_of(recipe)
    read_probe(settings.probe)
    frozen, rows, scoring = read_rows(recipe)
    fixed = describe_fixed(recipe)
    require_same(folder, frozen, fixed)
    pilot = sample(rows["validation"], settings.pilot_rows, seed=settings.seed)
    digest = hashlib.sha256(json.dumps([fixed, describe_rows(rows, scoring)], sort_keys=True).encode()).hexdigest()
    log("frozen", {"num_test_rows": len(rows["test"]), "num_pilot_rows": len(pilot), "digest": frozen.digest})
    return Context(
        recipe=recipe,
        settings=settings,
        evaluation=evaluation,
        folder=folder,
        frozen=frozen,
        rows=rows,
        pilot=pilot,
        scoring=scoring,
        pricing=pricing_of(settings),
        budget=open_budget(folder, minutes=settings.budget_minutes, dollars=settings.budget_dollars),
        kept=kept,
        log=log,
        fixed=digest,
        notes=list(frozen.notes),
    )


def read_rows(recipe: Recipe) -> tuple[Frozen, dict[str, list[DecideRow]], Scoring]:
    """The rows of a recipe, audited, and how they are scored.

    Args:
        recipe: As `located` gives it.

    Raises:
        UserError: Whatever is wrong with the rows, `test-leaked` and `split-too-small` among it.
    """
    read = read_data(recipe.data, recipe.training.objective.kind)
    allowed = recipe.data.split.near_duplicates == "ignore" or ALLOWED_CHECK in recipe.data.ignore_checks
    frozen = freeze_rows(read, near=not allowed)
    retrieval: RetrievalSection | None = recipe.retrieval
    columns = RowColumns(retrieval.query, retrieval.gold) if retrieval else RowColumns()
    _, evaluation = sections_of(recipe)
    scored = {split: score_rows_of(frozen.splits[split], evaluation) for split in SPLITS}
    rows = {split: make_rows(frozen.splits[split], scored[split], frozen.template, columns) for split in SPLITS}
    require_gold(rows, columns.gold)
    labels = tuple(sorted({row.references[0] for part in scored.values() for row in part}))
    return frozen, rows, scoring_of(evaluation, labels if evaluation.task == "classification" else ())


def describe_fixed(recipe: Recipe) -> dict[str, object]:
    """What must not change while a comparison goes on, by the names that a user knows."""
    settings = recipe.decide
    retrieval = recipe.retrieval
    return {
        "base model": base_spec(recipe),
        "data settings": recipe.data.model_dump(mode="json", exclude=DATA_FILES),
        "method": recipe.method.model_dump(mode="json"),
        "training settings": recipe.training.model_dump(mode="json", exclude=set(COMPUTING_SETTINGS)),
        "evaluation": recipe.evaluation and recipe.evaluation.model_dump(mode="json"),
        "retrieval": retrieval and _describe_retrieval(retrieval),
        "decide settings": settings and settings.model_dump(mode="json", exclude=set(FREE_SETTINGS)),
    }


def describe_rows(rows: Mapping[str, Sequence[DecideRow]], scoring: Scoring) -> list[object]:
    """What scores depend on: rows, what is searched with and right, the schema, and fields where a metric reads them.

    Args:
        rows: The rows by split; their content hashes say nothing of columns beside prompt and answer.
        scoring: How answers are scored.
    """
    reads_fields = scoring.tests is not None or bool(scoring.metrics)
    splits = {
        split: [
            (row.id, row.query, row.gold, row.references, dict(row.scored.fields) if reads_fields else {})
            for row in part
        ]
        for split, part in rows.items()
    }
    return [splits, scoring.json_schema and dict(scoring.json_schema)]


def _describe_retrieval(retrieval: RetrievalSection) -> dict[str, object]:
    """The section without its documents, which may change, and without the password of its store, which stays out."""
    values = retrieval.model_dump(mode="json", exclude={"documents"})
    return {**values, "store": without_password(retrieval.store)}
