"""The recipe: what a run does, as frozen, closed and documented types.

A field's docstring is its only documentation: the reference page, the JSON Schema, the annotated template and the
error messages are all generated from this file. Types check one value; rules between fields live in `rules.py`.
"""

from typing import Annotated, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kivnun.recipe import rules

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[Number, Field(gt=0)]
NonNegativeNumber = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
ShareBelowOne = Annotated[Number, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(strict=True)]
PositiveWhole = Annotated[Whole, Field(gt=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Text = Annotated[StrictStr, StringConstraints(min_length=1)]
RunName = Annotated[StrictStr, StringConstraints(pattern=r"^\w[\w.-]*$")]


def _tag_kind(value: object) -> str | None:
    """The tag of a variant that is chosen by its `kind` field; the angle brackets keep it apart from field names."""
    if isinstance(value, BaseModel):
        value = dict(value)
    kind = cast("dict[object, object]", value).get("kind") if isinstance(value, dict) else None
    return f"<{kind}>" if isinstance(kind, str) else None


def _tag_shape(value: object) -> str | None:
    """The tag of a variant that is chosen by the shape of the value: text, list or mapping."""
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<mapping>" if isinstance(value, dict | BaseModel) else None


def _check_split_size(value: object) -> object:
    """Accept a fraction below one or a whole number of rows; 1.0 is refused since it could mean either."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("split_size", "input should be a fraction below 1 or a whole number of rows")
    if isinstance(value, float) and not 0 <= value < 1:
        raise PydanticCustomError("split_size", "a fraction should be at least 0 and below 1")
    if value < 0:
        raise PydanticCustomError("split_size", "a number of rows should be 0 or more")
    return value


def _text_keys(value: object) -> object:
    """Turn the keys of a mapping into text, since codes such as 0 and 1 are compared with cells of a file."""
    if not isinstance(value, dict):
        return value
    entries = cast("dict[object, object]", value)
    return {str(key) if isinstance(key, int) else key: name for key, name in entries.items()}


def _check_switch(value: object) -> object:
    """Keep 1 and 0 from passing for true and false."""
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("switch", "input should be auto, true or false")


SplitSize = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)],
    BeforeValidator(_check_split_size),
]
"""A fraction of the rows (0.1) or a number of rows (200)."""

DataFiles = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[tuple[Text, ...], Tag("<list>"), Field(min_length=1)]
    | Annotated[dict[Text, Text], Tag("<mapping>"), Field(min_length=1)],
    Discriminator(_tag_shape),
]
"""A file, a folder or a hub id, several of them, or column names with one line-by-line text file each."""

DataFormat = Literal[
    "openai-chat",
    "openai-preference",
    "openai-reinforcement",
    "prompt-completion",
    "alpaca",
    "sharegpt",
    "kto",
    "preference",
    "gemini",
    "gemini-preference",
    "gemini-1.0",
    "palm-text",
    "palm-chat",
    "bedrock-claude",
    "columns",
    "text",
    "taskmaster",
    "super-ni",
    "snips",
    "squad",
]
"""Shapes of rows that are read without a template; `kivnun.data.formats.FORMATS` reads them."""

LayerNames = Annotated[
    Annotated[Literal["all-linear"], Tag("<text>")] | Annotated[tuple[Text, ...], Tag("<list>"), Field(min_length=1)],
    Discriminator(_tag_shape),
]
"""Every linear layer but the output, or a list of layer names."""

Switch = Annotated[Literal["auto"] | bool, BeforeValidator(_check_switch)]
"""Yes, no, or as it suits the machine."""

ValueNames = Annotated[dict[Text, Text], Field(min_length=1), BeforeValidator(_text_keys)]
"""Names for the coded values of one column."""


class Section(BaseModel):
    """A closed, frozen group of fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )


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
    value_names: dict[Text, ValueNames] = {}
    """Names for coded values by column, such as `label: {0: anger, 1: joy}`."""
    repeat: dict[Text, PositiveWhole] = {}
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


class FullMethod(Section):
    """Every weight of the model is trained."""

    kind: Literal["full"] = "full"
    """The method."""


class LoraMethod(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    """The method."""
    rank: PositiveWhole = 16
    """Rank of the adapter matrices."""
    alpha: PositiveNumber = 32
    """Strength of the adapter, which is scaled by `alpha / rank`."""
    dropout: ShareBelowOne = 0.0
    """Share of the adapter's inputs that is dropped while training."""
    target_modules: LayerNames = "all-linear"
    """Layers that get an adapter: `all-linear`, or a list of layer names such as `[q_proj, v_proj]`."""


Method = Annotated[
    Annotated[FullMethod, Tag("<full>")] | Annotated[LoraMethod, Tag("<lora>")],
    Discriminator(_tag_kind),
]
"""How weights become trainable, chosen by `kind`."""

BaseModelChoice = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[NewModel, Tag("<mapping>")],
    Discriminator(_tag_shape),
]
"""A model by name, or the shape of a new one."""


class TrainingSection(Section):
    """The training loop: how long, how fast, and what is kept."""

    objective: Literal["supervised", "text"] = "supervised"
    """What is learnt: the answers of the rows, or every token of running text."""
    epochs: PositiveNumber = 3.0
    """Passes over the training rows."""
    max_steps: PositiveWhole | None = None
    """Most optimizer steps; training stops there even if the epochs are not over."""
    learning_rate: PositiveNumber = 2e-4
    """Peak learning rate."""
    batch_tokens: PositiveWhole = 8192
    """Tokens in one batch, padding-free."""
    gradient_accumulation_steps: PositiveWhole = 1
    """Batches whose gradients are summed into one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The optimizer."""
    weight_decay: NonNegativeNumber = 0.0
    """Decoupled weight decay."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """Decay rates of AdamW's two running averages."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: ShareBelowOne = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    final_learning_rate_ratio: Share = 0.0
    """Learning rate of the last step as a share of the peak."""
    max_grad_norm: PositiveNumber = 1.0
    """Norm to which larger gradients are clipped."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computation; auto takes bf16 where the machine computes it fast."""
    seed: Seed = 0
    """Seed of the weights, the order of rows and dropout."""
    compile: Switch = "auto"
    """Whether torch.compile is used."""
    validate_every_steps: PositiveWhole | None = None
    """Steps between validations; once an epoch if not given."""
    save_every_steps: PositiveWhole | None = None
    """Steps between checkpoints; every five minutes if not given."""
    early_stopping_patience: PositiveWhole | None = None
    """Validations without a better loss after which training stops; never if not given."""
    keep_checkpoints: PositiveWhole = 2
    """Number of latest checkpoints that are kept."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_training(self))
        return self


class EvaluationSection(Section):
    """Base against tuned model on the test rows."""

    task: Literal["classification", "generation"]
    """What is measured: the label that is answered, or the text."""
    label: Text | None = None
    """Column that holds the label of a classification."""
    max_new_tokens: PositiveWhole = 32
    """Longest answer in tokens."""
    seed: Seed = 0
    """Seed of the resampling behind confidence intervals."""
    resamples: Annotated[Whole, Field(ge=100)] = 1000
    """Number of resamples behind a bootstrap interval."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_evaluation(self))
        return self


class OptimizationSection(Section):
    """The model that is shipped: merged, exported to ONNX, compared with what was evaluated."""

    precision: Literal["int4", "fp32"] = "int4"
    """Number format of the exported weights."""
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """Number of int4 weights that share one scale."""
    tie_tolerance: NonNegativeNumber = 1e-3
    """Difference of two logits up to which either token counts as the best; it must hold in both forms compared."""
    min_int4_agreement: Share | None = None
    """Share of test answers that must stay the same after int4; reported but not enforced if not given."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_optimization(self))
        return self


class Recipe(Section):
    """One run, from data to a model that is shipped; an absent section is a stage that is not run."""

    name: RunName | None = None
    """Name of the run in reports; letters, digits, `.`, `_` and `-`."""
    base_model: BaseModelChoice
    """The model to start from: `bundled`, a Hugging Face id, a folder, or the shape of a new model."""
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

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_recipe(self))
        return self
