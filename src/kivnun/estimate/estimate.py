"""The whole estimate of a recipe: its tokens, and for each method the memory, the minutes here and the hosted bills."""

import datetime
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer as PlainTokenizer

from kivnun.data.encode import Encoder
from kivnun.data.prepare import PreparedData, tokenize_splits
from kivnun.data.reading import read_data
from kivnun.errors import UserError
from kivnun.estimate.hosted import CountTokens, HostedPrice, count_hosted_tokens, price_training
from kivnun.estimate.measure import Measurement, measure_training
from kivnun.estimate.memory import MemoryNeed, count_memory
from kivnun.inputs import fit_context, located_recipe
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import ResolvedModel, resolve_model
from kivnun.models.types import Tokenizer
from kivnun.prices import load_prices
from kivnun.recipe import LoadedRecipe, Method, NewModel, Recipe
from kivnun.training.device import pick_device, pick_dtype
from kivnun.training.loop import make_plan

# Each is measured in a process of its own for some seconds, so not every method that there is.
COMPARED_METHODS = ("full", "lora")
# Beyond this share of the memory a training would swap or be killed, and its steps would say nothing.
USABLE_SHARE = 0.9


@dataclass(frozen=True)
class MethodEstimate:
    """What one method would take on this machine.

    Attributes:
        method: Its kind.
        need: Memory counted from the model's shapes.
        measured: What its own training steps took; None where none were run.
        seconds: Time of the whole training: expected, least, most; None without a measurement.
        not_measured: Why there is no measurement, or "".
    """

    method: str
    need: MemoryNeed
    measured: Measurement | None
    seconds: tuple[float, float, float] | None
    not_measured: str


@dataclass(frozen=True)
class Estimate:
    """What a training would cost.

    Attributes:
        base_model: The model's name.
        rows: Training rows.
        dropped: Rows that would be left out of the training, by reason.
        tokens: Tokens of the training rows, once.
        trained_tokens: Those of them that are learnt.
        epochs: Passes over the rows.
        num_steps: Optimizer steps.
        planned_tokens: Tokens that the whole training reads.
        memory_bytes: Memory of this machine, or of its GPU.
        device: Where a training would run.
        methods: One entry for each method, the recipe's own first.
        hosted: The bills of hosted services; empty for running text.
        counted_with: The tokenizer that hosted tokens were counted with.
        prices: The price table's file.
        prices_as_of: The day of its prices.
        prices_are_old: Whether that is more than half a year ago.
    """

    base_model: str
    rows: int
    dropped: Mapping[str, int]
    tokens: int
    trained_tokens: int
    epochs: float
    num_steps: int
    planned_tokens: int
    memory_bytes: int
    device: str
    methods: tuple[MethodEstimate, ...]
    hosted: tuple[HostedPrice, ...]
    counted_with: str
    prices: str
    prices_as_of: str
    prices_are_old: bool

    def to_json(self) -> dict[str, object]:
        """All of it as plain values; each method's `need` also holds its `total`."""
        value = asdict(self)
        for entry, method in zip(value["methods"], self.methods, strict=True):
            entry["need"]["total"] = method.need.total
        return value


@dataclass(frozen=True)
class EstimateOptions:
    """How an estimate is made.

    Attributes:
        measure_seconds: Seconds of training steps for each method; 0 measures nothing.
        prices: A price table in place of the usual one.
        hosted_tokenizer: A tokenizer.json to count hosted tokens with; else the base model's own.
    """

    measure_seconds: float = 5.0
    prices: Path | None = None
    hosted_tokenizer: Path | None = None


def estimate_recipe(
    loaded: LoadedRecipe, options: EstimateOptions, *, show: Callable[[str], None] = lambda _line: None
) -> Estimate:
    """Say what a recipe's training would cost; nothing is kept.

    Args:
        loaded: The recipe.
        options: How.
        show: Takes a line before each thing that takes seconds.

    Raises:
        UserError: Whatever a run would refuse before training; `prices-invalid`; `estimate-failed`.
    """
    recipe = located_recipe(loaded)
    if isinstance(recipe.base_model, NewModel):
        raise UserError(
            "stage-unsupported",
            f"{loaded.path}: base_model is a new model, which does not exist before it is trained",
            hint="estimate with a model of that size: --set base_model=FOLDER",
        )
    table, prices_path = load_prices(options.prices)
    base = resolve_model(recipe.base_model)
    tokenizer = load_tokenizer(base.folder)
    show("reading and tokenising the rows")
    prepared = _prepare(recipe, base, tokenizer)
    hosted_tokens, counted_with = _hosted_tokens(prepared, tokenizer, base, options.hosted_tokenizer)
    tokens = prepared.table("train")
    plan = make_plan(tokens.lengths(), recipe.training)
    planned = sum(sum(plan.lengths[row] for row in rows) for _, rows in plan.batches(0))
    return Estimate(
        base_model=base.name,
        rows=len(tokens),
        dropped=dict(prepared.dropped),
        tokens=tokens.num_tokens,
        trained_tokens=prepared.num_trained("train"),
        epochs=recipe.training.epochs,
        num_steps=plan.num_steps,
        planned_tokens=planned,
        memory_bytes=machine_memory(),
        device=_device_name(),
        methods=tuple(
            _estimate_method(recipe, method, base, prepared, planned, options, show) for method in _methods(recipe)
        ),
        hosted=tuple(price_training(hosted_tokens, recipe.training.epochs, table)) if hosted_tokens else (),
        counted_with=counted_with,
        prices=str(prices_path),
        prices_as_of=table.as_of.isoformat(),
        prices_are_old=table.is_old(datetime.datetime.now(tz=datetime.UTC).date()),
    )


def machine_memory() -> int:
    """Bytes of memory that a training can use: the GPU's where there is one, else the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _device_name() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"


def _prepare(recipe: Recipe, base: ResolvedModel, tokenizer: Tokenizer) -> PreparedData:
    read = read_data(recipe.data, recipe.training.objective.kind)
    data, _ = fit_context(recipe.data, base, recipe.method)
    prepared = tokenize_splits(read.template, read.splits, data, Encoder(tokenizer), recipe.training.objective)
    return replace(prepared, dropped={**read.left_out, **prepared.dropped})


def _methods(recipe: Recipe) -> list[Method]:
    """The recipe's own method, then those it is compared with, at their defaults."""
    others = [kind for kind in COMPARED_METHODS if kind != recipe.method.kind]
    return [recipe.method, *(TypeAdapter(Method).validate_python({"kind": kind}) for kind in others)]


def _estimate_method(
    recipe: Recipe,
    method: Method,
    base: ResolvedModel,
    prepared: PreparedData,
    planned_tokens: int,
    options: EstimateOptions,
    show: Callable[[str], None],
) -> MethodEstimate:
    table = prepared.table("train")
    dtype = pick_dtype(recipe.training.precision, pick_device())
    need = count_memory(base, method, recipe.training, dtype=dtype, row_lengths=table.lengths(), labels=prepared.labels)
    if not options.measure_seconds:
        return MethodEstimate(method.kind, need, None, None, "not asked for")
    if need.total > USABLE_SHARE * machine_memory():
        return MethodEstimate(method.kind, need, None, None, "needs more memory than this machine has")
    show(f"measuring method {method.kind}: training steps for {options.measure_seconds:g} seconds")
    measured = measure_training(recipe, method, base, table, seconds=options.measure_seconds)
    return MethodEstimate(method.kind, need, measured, measured.seconds(planned_tokens), "")


def _hosted_tokens(
    prepared: PreparedData, tokenizer: Tokenizer, base: ResolvedModel, chosen: Path | None
) -> tuple[list[int], str]:
    """Tokens of each training row as a hosted service would count them; none for running text."""
    if prepared.template.kind == "document":
        return [], ""
    backend, name = tokenizer.backend_tokenizer, f"the tokenizer of {base.name}"
    if chosen is not None:
        backend, name = _read_tokenizer(chosen), str(chosen)

    def count(texts: list[str]) -> list[int]:
        return [len(encoding.ids) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    counter: CountTokens = count  # type: ignore[assignment]
    return count_hosted_tokens((row.conversation for row in prepared.splits["train"]), counter), name


def _read_tokenizer(path: Path) -> PlainTokenizer:
    try:
        return PlainTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            "model-invalid",
            f"{path}: cannot be read as a tokenizer: {next(iter(str(error).splitlines()), '')}",
            hint="name a tokenizer.json",
        ) from error
