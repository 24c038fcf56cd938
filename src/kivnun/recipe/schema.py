"""The recipe: what a run does, as frozen, closed and documented types.

A field's docstring is its only documentation: the reference page, the JSON Schema, the annotated template and the
error messages are all generated from this file. Types check one value; rules between fields live in `rules.py`.
"""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, StrictBool, Tag, model_validator

from kivnun.recipe import rules, strategy_rules
from kivnun.recipe.decide import DecideSection
from kivnun.recipe.methods import LoraMethod, Method
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.recipe.search import SearchSection
from kivnun.recipe.training import TrainingSection
from kivnun.recipe.values import (
    DataFiles,
    DataFormat,
    PositiveWhole,
    RowRange,
    RunName,
    Section,
    Seed,
    SplitSize,
    Text,
    ValueNames,
    Whole,
    tag_shape,
)
from kivnun.recipe.where import Where


class NewTokenizer(Section):
    """A tokenizer that is trained on the run's own text."""

    kind: Literal["byte_level_bpe"] = "byte_level_bpe"
    """Byte-level byte-pair encoding, which can spell any text."""
    vocab_size: Annotated[Whole, Field(ge=300)] = 8192
    """Number of tokens, the 256 bytes and the special tokens among them."""


class NewModel(Section):
    """A model with fresh random weights, for pre-training."""

    architecture: Literal["llama"] = "llama"
    """The model family."""
    hidden_size: PositiveWhole
    """Width of the residual stream; a multiple of `num_attention_heads`."""
    intermediate_size: PositiveWhole
    """Width of the feed-forward layers."""
    num_hidden_layers: PositiveWhole
    """Number of transformer layers."""
    num_attention_heads: PositiveWhole
    """Number of query heads."""
    num_key_value_heads: PositiveWhole
    """Number of key and value heads; a divisor of `num_attention_heads`."""
    max_position_embeddings: PositiveWhole = 1024
    """Longest context in tokens."""
    tie_word_embeddings: StrictBool = True
    """Whether the input and output embeddings are one matrix."""
    tokenizer: NewTokenizer = NewTokenizer()
    """The tokenizer to train."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_new_model(self))
        return self


class SplitSection(Section):
    """How rows are set aside when no validation or test file is given."""

    validation: SplitSize = 0.1
    """Rows kept for validation while training: a fraction below 1, or a whole number of rows; 0 keeps none."""
    test: SplitSize = 0.1
    """Rows kept for the evaluation, never seen in training: a fraction below 1, or a whole number of rows."""
    stratify_by: Text | None = None
    """Column whose values keep their proportions in every split."""
    group_by: Text | None = None
    """Column whose equal values stay in one split; or `conversation`, for rows that open with the same turns, or \
`document`, for rows of the same file, where no column has that name."""
    time_by: Text | None = None
    """Column of dates (ISO 8601) or numbers: the oldest rows train, later ones validate, the newest ones test."""
    near_duplicates: Literal["together", "ignore"] | None = None
    """Whether rows that are nearly the same stay in one split; if not given: together, but ignore for the objective \
text. Rows that are the same word for word always stay together."""
    seed: Seed = 0
    """Seed of the split; it has no effect on a split by time."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_split(self))
        return self


class DataSection(Section):
    """The rows, how they become text, and how they are split."""

    train: DataFiles
    """The training rows: a file (JSONL, JSON, CSV, TSV, Parquet, Arrow or text, also compressed), a folder or the id \
of a Hugging Face data set, a list of these, or a mapping of columns to text files that run in parallel, such as \
`{phrase: train_text.txt, label: train_labels.txt}`."""
    validation: DataFiles | None = None
    """Validation rows, in the same forms; without them, those of a folder or data set that `train` names, or else \
rows split off `train`."""
    test: DataFiles | None = None
    """Test rows, in the same forms; without them, those of a folder or data set that `train` names, or else rows \
split off `train`."""
    train_rows: RowRange | None = None
    """Rows of `train` that are taken, from the first one at 0 up to and without the last one, such as `0:4096`, \
`:4096` or `10%:20%`; all if not given. The others are left out and counted aloud, before any are split off."""
    validation_rows: RowRange | None = None
    """Rows that validate, in the same form: of `validation`, or where that names none, of `train`, whose other rows \
(or `train_rows`) train."""
    format: DataFormat | None = None
    """Shape of the rows where no template says it; found out and said aloud if not given."""
    header: StrictBool | None = None
    """Whether CSV and TSV files begin with the names of their columns; found out if not given."""
    text_template: Text | None = None
    """Text of a whole row with fields in braces; the last field is the answer that is trained."""
    prompt_template: Text | None = None
    """Text of the prompt with fields in braces; goes with `answer_template`."""
    answer_template: Text | None = None
    """Text of the answer that is trained, with fields in braces; goes with `prompt_template`."""
    messages: Text | None = None
    """Column that holds conversations in the OpenAI format; without any template, a column `messages` is found by \
itself."""
    value_names: dict[Text, ValueNames] = Field(default={})
    """Names for coded values by column, such as `label: {0: anger, 1: joy}`."""
    repeat: dict[Text, PositiveWhole] = Field(default={})
    """Times that a text file's documents are seen in one pass, by the file's name up to its first dot; once if \
not given."""
    split: SplitSection = SplitSection()
    """How rows are set aside."""
    max_seq_len: Annotated[Whole, Field(ge=8)] = 1024
    """Longest row in tokens, prompt and answer together."""
    on_too_long: Literal["refuse", "drop"] = "refuse"
    """What happens to a row longer than `max_seq_len`: refuse the run, or drop the row and count it aloud."""
    ignore_checks: tuple[Text, ...] = ()
    """Codes of checks, such as `leak-large`, whose findings are accepted before training; they are still counted \
aloud."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_data(self))
        return self


BaseModelChoice = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[NewModel, Tag("<mapping>")],
    Discriminator(tag_shape),
]
"""A model by name, or the shape of a new one."""


class EvaluationSection(Section):
    """Base against tuned model on the test rows."""

    task: Literal[
        "classification", "generation", "retrieval", "extraction", "summarisation", "question_answering", "code"
    ]
    """What is measured: the label that is answered, the text word for word, fields of JSON or spans, a summary, a \
short answer to a question, a program, or whether the text that belongs to a row is the nearest, for the objective \
`contrastive`."""
    label: Text | None = None
    """Column that holds the label of a classification."""
    references: Text | None = None
    """Column with further right answers, a JSON list of texts; any of them counts."""
    metrics: tuple[Text, ...] = ()
    """Metrics beside those of the task, by name; ones of your own are installed as entry points \
`kivnun.metrics`."""
    json_schema: Text | None = None
    """File with a JSON Schema that every answer should keep."""
    tests: Text | None = None
    """Column with Python tests (asserts) that an answer of the task code must pass."""
    run_code: StrictBool = False
    """Whether answers of the task code may be run on this machine, in a process of their own with limits."""
    slices: tuple[Text, ...] = ()
    """Columns whose values are scored apart, besides `language` and `length`, which every row has."""
    max_new_tokens: PositiveWhole = 32
    """Longest answer in tokens."""
    seed: Seed = 0
    """Seed of the resampling behind confidence intervals."""
    resamples: Annotated[Whole, Field(ge=100)] = 1000
    """Number of resamples behind a bootstrap interval."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(strategy_rules.check_evaluation(self))
        return self


class Recipe(Section):
    """One run, from data to a model that is shipped; an absent section is a stage that is not run."""

    name: RunName | None = None
    """Name of the run in reports; letters, digits, `.`, `_` and `-`."""
    base_model: BaseModelChoice
    """The model to start from: `bundled`, `bundled-reader` (which can read a short passage), a Hugging Face id, a \
folder, or the shape of a new model."""
    data: DataSection
    """The rows."""
    method: Method = LoraMethod()
    """How weights become trainable."""
    training: TrainingSection = TrainingSection()
    """The training loop."""
    evaluation: EvaluationSection | None = None
    """The evaluation; absent: not run."""
    optimization: OptimizationSection | None = None
    """The export; absent: not run."""
    retrieval: RetrievalSection | None = None
    """Documents to answer from; only `kivnun index` and `kivnun decide` use them."""
    decide: DecideSection | None = None
    """The comparison of strategies; only `kivnun decide` runs it."""
    search: SearchSection | None = None
    """The search for better values; only `kivnun search` runs it."""
    where: Where | None = None
    """Where the run is computed; absent: on this machine."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse([*rules.check_recipe(self), *strategy_rules.check_strategies(self)])
        return self
