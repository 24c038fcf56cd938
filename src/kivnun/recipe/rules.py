"""Rules between the fields of a recipe: each check returns every problem it finds, with the field that is to blame."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic_core import PydanticCustomError

from kivnun.recipe.templates import template_fields

if TYPE_CHECKING:  # the sections call these rules, so that a recipe built in Python is checked as well
    from pydantic import BaseModel

    from kivnun.recipe.methods import PartialMethod
    from kivnun.recipe.optimization import OptimizationSection
    from kivnun.recipe.schema import DataSection, NewModel, Recipe, SplitSection
    from kivnun.recipe.search import IntRange, SearchSection
    from kivnun.recipe.training import TrainingSection

RULES_ERROR: Final = "rules"
"""The pydantic error type under which broken rules travel; the loader unfolds them."""


HEAD_OBJECTIVES: Final = {"classification": "accuracy and macro_f1", "contrastive": "recall_at_1 and mrr"}
"""Objectives that train a model with another head than the one that generates text, and what they measure."""


SPECIAL_GROUPS: Final = ("conversation", "document")
"""What `group_by` may name besides a column."""


class Problem(NamedTuple):
    """One broken rule."""

    path: str
    """The field to blame, relative to the section that was checked."""
    message: str
    """What is wrong, with the value."""


def refuse(problems: Sequence[Problem]) -> None:
    """Refuse a section for all its problems at once.

    Raises:
        PydanticCustomError: When there is a problem; the list travels in its context.
    """
    if problems:
        text = "; ".join(f"{path}: {message}" for path, message in problems)
        raise PydanticCustomError(RULES_ERROR, "{text}", {"text": text, "problems": [tuple(p) for p in problems]})


def check_new_model(model: "NewModel") -> list[Problem]:
    """The heads of a new model must divide its width."""
    heads, kv_heads, width = model.num_attention_heads, model.num_key_value_heads, model.hidden_size
    problems: list[Problem] = []
    if width % heads:
        problems.append(Problem("hidden_size", f"{width} is not a multiple of num_attention_heads ({heads})"))
    elif (width // heads) % 2:
        text = f"{width} / num_attention_heads ({heads}) = {width // heads}; rotary positions need an even head size"
        problems.append(Problem("hidden_size", text))
    if heads % kv_heads:
        problems.append(Problem("num_key_value_heads", f"{kv_heads} does not divide num_attention_heads ({heads})"))
    return problems


def check_split(split: "SplitSection") -> list[Problem]:
    """Fractions must leave rows to train on, and only one thing decides where a row goes."""
    problems: list[Problem] = []
    fractions = [size for size in (split.validation, split.test) if isinstance(size, float)]
    if sum(fractions) >= 1:
        text = f"{split.test} and validation ({split.validation}) leave no rows to train on"
        problems.append(Problem("test", text))
    if split.time_by is not None and split.stratify_by is not None:
        problems.append(Problem("stratify_by", "cannot stand beside time_by, which alone decides where a row goes"))
    return problems


def check_data(data: "DataSection") -> list[Problem]:
    """Templates must be readable and not compete; files must not be used twice; columns must exist."""
    return [*_check_row_format(data), *_check_templates(data), *_check_columns(data), *_check_files(data)]


def _check_row_format(data: "DataSection") -> list[Problem]:
    """Exactly one way to turn a row into text."""
    problems: list[Problem] = []
    halves = (data.prompt_template, data.answer_template)
    ways = {
        "text_template": data.text_template is not None,
        "prompt_template and answer_template": any(halves),
        "messages": data.messages is not None,
        "format": data.format is not None,
    }
    used = [way for way, is_used in ways.items() if is_used]
    if len(used) > 1:
        blamed = {"prompt_template and answer_template": "prompt_template" if halves[0] else "answer_template"}
        text = f"cannot stand beside {used[0]}; keep one way to turn a row into text"
        problems.append(Problem(blamed.get(used[-1], used[-1]), text))
    if any(halves) and not all(halves):
        given, absent = ("prompt_template", "answer_template") if halves[0] else ("answer_template", "prompt_template")
        problems.append(Problem(given, f"goes with {absent}, which is missing"))
    return problems


def _check_templates(data: "DataSection") -> list[Problem]:
    """Every template names at least one field, in braces that match."""
    problems: list[Problem] = []
    for name, template in _templates(data):
        try:
            fields = template_fields(template)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
            continue
        if not fields and name != "prompt_template":
            problems.append(Problem(name, "has no field in braces, so that every row would be the same"))
        if name == "text_template" and len(fields) > 1 and fields[-1] in fields[:-1]:
            problems.append(Problem(name, f"the answer {{{fields[-1]}}} also stands in the prompt"))
    return problems


def _check_columns(data: "DataSection") -> list[Problem]:
    """Columns that are named must be in the parallel files, and value names must be of use."""
    problems: list[Problem] = []
    fields = readable_fields(data)
    columns = tuple(data.train) if isinstance(data.train, dict) else None
    if columns is not None:
        named = [(name, field) for name, template in _templates(data) for field in _fields_or_none(template)]
        named += _split_columns(data.split)
        if data.messages is not None:
            named.append(("messages", data.messages))
        for path, field in dict.fromkeys(named):
            if field not in columns:
                problems.append(Problem(path, f"`{field}` is not a column of train{_suggest(field, columns)}"))
    if fields:
        used = {*fields, *(column for _, column in _split_columns(data.split))}
        for column in data.value_names:
            if column not in used:
                text = f"no template has a field `{column}`{_suggest(column, fields)}"
                problems.append(Problem(f"value_names.{column}", text))
    return problems


def _split_columns(split: "SplitSection") -> list[tuple[str, str]]:
    """The fields of a split that name a column, with the column; groups that are no column are left out."""
    named = {"stratify_by": split.stratify_by, "group_by": split.group_by, "time_by": split.time_by}
    return [(f"split.{name}", column) for name, column in named.items() if column and column not in SPECIAL_GROUPS]


def _check_files(data: "DataSection") -> list[Problem]:
    """No file is given twice: rows that are trained must not be evaluated."""
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for name, files in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        for file in list_files(files):
            if file in seen:
                where = "given twice" if seen[file] == name else f"also in {seen[file]}"
                problems.append(Problem(name, f"`{file}` is {where}"))
            seen.setdefault(file, name)
        if isinstance(files, dict) and isinstance(data.train, dict) and set(files) != set(data.train):
            text = f"its columns ({', '.join(files)}) differ from those of train ({', '.join(data.train)})"
            problems.append(Problem(name, text))
    if data.validation is not None and data.test is not None:
        text = "has no effect, since validation and test files are both given"
        names = ("stratify_by", "group_by", "time_by", "near_duplicates")
        problems += [Problem(f"split.{name}", text) for name in names if getattr(data.split, name) is not None]
    return problems


def check_training(training: "TrainingSection") -> list[Problem]:
    """Settings must have an effect."""
    problems: list[Problem] = []
    if training.schedule == "constant" and training.final_learning_rate_ratio > 0:
        text = f"{training.final_learning_rate_ratio} has no effect on the constant schedule"
        problems.append(Problem("final_learning_rate_ratio", text))
    if training.schedule != "wsd" and training.decay_ratio is not None:
        problems.append(Problem("decay_ratio", f"has no effect on the schedule {training.schedule}; it belongs to wsd"))
    if training.warmup_ratio + (training.decay_ratio or 0) > 1:
        text = f"{training.decay_ratio} and warmup_ratio ({training.warmup_ratio}) are more than all steps"
        problems.append(Problem("decay_ratio", text))
    if training.batch_size is not None and training.batch_tokens != _default(training, "batch_tokens"):
        problems.append(Problem("batch_size", "stands in place of batch_tokens, which is given as well; keep one"))
    if training.early_stopping_min_delta and training.early_stopping_patience is None:
        problems.append(Problem("early_stopping_min_delta", "has no effect without early_stopping_patience"))
    if training.validation_rows != _default(training, "validation_rows") and not training.validation_metrics:
        problems.append(Problem("validation_rows", "has no effect without validation_metrics"))
    return [*problems, *_check_best_metric(training), *_check_contrastive(training)]


def _default(section: "BaseModel", name: str) -> object:
    return type(section).model_fields[name].default


def _check_best_metric(training: "TrainingSection") -> list[Problem]:
    """The metric that decides must be measured."""
    kind = training.objective.kind
    if training.validation_metrics and kind in HEAD_OBJECTIVES:
        text = f"are of answers that a model generates; the objective {kind} measures {HEAD_OBJECTIVES[kind]} by itself"
        return [Problem("validation_metrics", text)]
    reason = why_not_measured(training, training.best_metric)
    return [] if reason is None else [Problem("best_metric", reason)]


OBJECTIVES_OF_METRICS: Final = {"recall_at_1": ("contrastive",), "reward_accuracy": ("dpo", "orpo")}
"""Metrics that some objectives measure by themselves and the others cannot."""


def why_not_measured(training: "TrainingSection", metric: str) -> str | None:
    """Why a metric is not measured on the validation split while training, or None where it is."""
    kind = training.objective.kind
    owners = OBJECTIVES_OF_METRICS.get(metric)
    if owners is not None:
        return None if kind in owners else f"{metric} belongs to the objectives {' and '.join(owners)}, not {kind}"
    is_own = kind == "classification" and metric in {"accuracy", "macro_f1"}
    if metric == "loss" or is_own or metric in training.validation_metrics:
        return None
    return f"{metric} is not measured; add it to training.validation_metrics"


def _check_contrastive(training: "TrainingSection") -> list[Problem]:
    """Each of the two losses has settings of its own, and `in_batch` needs something to tell apart."""
    objective = training.objective
    if objective.kind != "contrastive":
        return []
    settings = ("margin", "pair_label") if objective.loss == "in_batch" else ("temperature", "negative")
    problems = [
        Problem(f"objective.{name}", f"has no effect on the loss {objective.loss}")
        for name in settings
        if getattr(objective, name) != _default(objective, name)
    ]
    is_single = training.batch_size is not None and training.batch_size * training.gradient_accumulation_steps == 1
    if objective.loss == "in_batch" and is_single:
        problems.append(Problem("batch_size", "1 leaves a row alone in its step, with no other row to be told from"))
    return problems


def check_partial(method: "PartialMethod") -> list[Problem]:
    """Something must be trained, and said in one way."""
    if (method.last_layers is None) == (not method.modules):
        return [Problem("last_layers", "say what is trained: either last_layers or modules")]
    return []


def check_search(search: "SearchSection") -> list[Problem]:
    """Ranges must hold more than one value, each once, and settings must have an effect."""
    problems: list[Problem] = []
    for name, span in search.space.items():
        if span.type == "choice":
            if len(set(span.values)) < len(span.values):
                problems.append(Problem(f"space.{name}.values", "holds a value twice"))
            if len(span.values) == 1:
                problems.append(Problem(f"space.{name}.values", "holds one value; set it in its section instead"))
            continue
        if span.low >= span.high:
            problems.append(Problem(f"space.{name}.high", f"{span.high} is not above low ({span.low})"))
        if span.log and span.low <= 0:
            problems.append(Problem(f"space.{name}.low", f"{span.low} has no logarithm; it must be above 0"))
        if span.type == "int":
            problems += _check_search_step(name, span)
    if search.pruner != "median" and search.prune_after != _default(search, "prune_after"):
        problems.append(Problem("prune_after", f"has no effect on the pruner {search.pruner}; it belongs to median"))
    return problems


def _check_search_step(name: str, span: "IntRange") -> list[Problem]:
    """The step leads from the lowest to the highest value."""
    if span.log and span.step != 1:
        return [Problem(f"space.{name}.step", "has no effect where the logarithm is drawn")]
    if span.high > span.low and (span.high - span.low) % span.step:
        last = span.high - (span.high - span.low) % span.step
        text = f"{span.high} is not reached from {span.low} in steps of {span.step}; the last value is {last}"
        return [Problem(f"space.{name}.high", text)]
    return []


def check_optimization(optimization: "OptimizationSection") -> list[Problem]:
    """Settings of quantised weights, of calibration and of a choice must have an effect."""
    precision = optimization.precision

    def is_set(name: str) -> bool:
        return getattr(optimization, name) != type(optimization).model_fields[name].default

    problems: list[Problem] = []
    if precision in ("fp32", "fp16"):
        names = ("algorithm", "block_size", "calibration_rows", "min_agreement", "max_divergence")
        problems += [Problem(name, f"has no effect on precision {precision}") for name in names if is_set(name)]
    elif precision == "auto":
        names = ("algorithm", "block_size")
        text = "has no effect on precision auto, which tries several"
        problems += [Problem(name, text) for name in names if is_set(name)]
    elif is_set("calibration_rows") and optimization.algorithm not in ("gptq", "awq"):
        problems.append(Problem("calibration_rows", f"has no effect on the algorithm {optimization.algorithm}"))
    if precision == "fp16" and optimization.target == "cpu":
        problems.append(Problem("precision", "fp16 is not computed on CPUs; use fp32, int8 or int4"))
    if precision == "fp32" and optimization.target not in ("auto", "cpu"):
        problems.append(Problem("precision", f"fp32 is computed on CPUs; {optimization.target} takes fp16 or int4"))
    if precision == "int8" and optimization.algorithm in ("gptq", "awq"):
        problems.append(Problem("algorithm", f"{optimization.algorithm} makes int4 weights; int8 takes rtn or k_quant"))
    if precision == "int8" and optimization.target == "directml":
        problems.append(Problem("precision", "int8 does not run on DirectML; use fp16 or int4"))
    if optimization.target not in ("auto", "cpu"):
        bounds = ("min_score", "max_latency_ms", "min_tokens_per_second", "max_memory")
        text = f"cannot be measured here for the target {optimization.target}"
        problems += [Problem(name, text) for name in bounds if getattr(optimization, name) is not None]
    return problems


def check_recipe(recipe: "Recipe") -> list[Problem]:
    """Rules that span sections."""
    return [
        *_check_new_weights(recipe),
        *_check_held_out_rows(recipe),
        *_check_objective(recipe),
        *_check_head(recipe),
        *_check_label(recipe),
        *_check_virtual_tokens(recipe),
        *_check_limits(recipe),
    ]


def _check_limits(recipe: "Recipe") -> list[Problem]:
    """A bound on the score needs one: without it no form could ever keep the bound."""
    if recipe.optimization is None or recipe.optimization.min_score is None or recipe.evaluation is not None:
        return []
    return [Problem("optimization.min_score", "bounds a score that nothing measures; add an evaluation section")]


def _check_new_weights(recipe: "Recipe") -> list[Problem]:
    """Random weights must all be trained, on rows that fit."""
    model = recipe.base_model
    if isinstance(model, str):
        return []
    problems: list[Problem] = []
    if recipe.method.kind != "full":
        text = f"{recipe.method.kind} would leave the random weights of a new model untrained; use full"
        problems.append(Problem("method.kind", text))
    if recipe.data.max_seq_len > model.max_position_embeddings:
        text = f"{recipe.data.max_seq_len} exceeds max_position_embeddings ({model.max_position_embeddings})"
        problems.append(Problem("data.max_seq_len", text))
    return problems


def _check_held_out_rows(recipe: "Recipe") -> list[Problem]:
    """What is measured needs rows to measure on."""
    data, training = recipe.data, recipe.training
    problems: list[Problem] = []
    if recipe.evaluation is not None and data.test is None and data.split.test == 0:
        problems.append(Problem("data.split.test", "is 0, but the evaluation needs test rows"))
    if data.validation is None and data.validation_rows is None and data.split.validation == 0:
        settings = {
            "training.validate_every_steps": training.validate_every_steps,
            "training.early_stopping_patience": training.early_stopping_patience,
            "training.validation_metrics": training.validation_metrics or None,
            "training.best_metric": None if training.best_metric == "loss" else training.best_metric,
        }
        text = "needs validation rows, but data.split.validation is 0"
        problems += [Problem(path, text) for path, value in settings.items() if value is not None]
    return problems


def _check_objective(recipe: "Recipe") -> list[Problem]:
    """Running text has no prompt and no answer; only its documents can be repeated."""
    kind = recipe.training.objective.kind
    if kind != "text":
        text = f"has no effect on the objective {kind}; it repeats the documents of running text"
        repeats = [Problem("data.repeat", text)] if recipe.data.repeat else []
        return [*repeats, *_check_judged_rows(recipe.data, kind)]
    settings = {
        "data.text_template": recipe.data.text_template,
        "data.prompt_template": recipe.data.prompt_template,
        "data.answer_template": recipe.data.answer_template,
        "data.messages": recipe.data.messages,
        "data.format": recipe.data.format,
    }
    text = "has no effect on the objective text, which trains every token"
    problems = [Problem(path, text) for path, value in settings.items() if value is not None]
    if recipe.evaluation is not None:
        problems.append(Problem("evaluation", "needs a prompt and an answer, but the objective is text"))
    if recipe.training.validation_metrics:
        needs = "need a prompt and an answer, but the objective is text"
        problems.append(Problem("training.validation_metrics", needs))
    return problems


def _check_judged_rows(data: "DataSection", kind: str) -> list[Problem]:
    """Objectives that learn from judgements need rows that can hold them."""
    if kind not in {"dpo", "orpo", "kto"}:
        return []
    ways = {name: getattr(data, name) for name in ("text_template", "prompt_template", "answer_template", "messages")}
    what = "whether an answer is good" if kind == "kto" else "a rejected answer"
    text = f"has no place for {what}, which the objective {kind} learns from; leave it out"
    return [Problem(f"data.{name}", text) for name, value in ways.items() if value is not None]


def _check_head(recipe: "Recipe") -> list[Problem]:
    """A model with a head of another kind generates no text."""
    kind, evaluation = recipe.training.objective.kind, recipe.evaluation
    problems: list[Problem] = []
    wanted = {"classification": "classification", "contrastive": "retrieval"}.get(kind)
    if evaluation is not None and wanted is not None and evaluation.task != wanted:
        problems.append(
            Problem("evaluation.task", f"{evaluation.task} does not fit the objective {kind}; use {wanted}")
        )
    if evaluation is not None and wanted != "retrieval" and evaluation.task == "retrieval":
        problems.append(Problem("evaluation.task", f"retrieval belongs to the objective contrastive, not {kind}"))
    if wanted is None:
        return problems
    if evaluation is not None and evaluation.max_new_tokens != _default(evaluation, "max_new_tokens"):
        problems.append(Problem("evaluation.max_new_tokens", f"has no effect on the objective {kind}"))
    if recipe.optimization is not None:
        text = f"exports models that generate text, which the objective {kind} does not train; remove the section"
        problems.append(Problem("optimization", text))
    if not isinstance(recipe.base_model, str):
        problems.append(Problem("base_model", f"a new model has learnt no language, which the objective {kind} needs"))
    return problems


def _check_label(recipe: "Recipe") -> list[Problem]:
    """The label of a classification is what the model is trained to answer."""
    label = recipe.evaluation.label if recipe.evaluation is not None else None
    answers = _answer_fields(recipe.data)
    if label is None or not answers or label in answers:
        return []
    text = f"`{label}` is not the field that is answered ({', '.join(answers)}){_suggest(label, answers)}"
    return [Problem("evaluation.label", text)]


def _check_virtual_tokens(recipe: "Recipe") -> list[Problem]:
    """What is learned before the documents is there from the first step on, and only once."""
    method, objective = recipe.method.kind, recipe.training.objective.kind
    problems: list[Problem] = []
    if method == "prefix" and recipe.training.gradient_checkpointing:
        text = "cannot be combined with the method prefix; train prompt or lora, or lower micro_batch_tokens"
        problems.append(Problem("training.gradient_checkpointing", text))
    if method in {"prefix", "prompt"} and objective in {"dpo", "kto"}:
        text = f"{method} does not start as the base model, which {objective} compares with; use lora, or orpo"
        problems.append(Problem("method.kind", text))
    return problems


def readable_fields(data: "DataSection") -> tuple[str, ...]:
    """Every field that the templates of a section name, once each."""
    return tuple(dict.fromkeys(field for _, template in _templates(data) for field in _fields_or_none(template)))


def _answer_fields(data: "DataSection") -> tuple[str, ...]:
    if data.answer_template is not None:
        return _fields_or_none(data.answer_template)
    return _fields_or_none(data.text_template)[-1:] if data.text_template is not None else ()


def _templates(data: "DataSection") -> list[tuple[str, str]]:
    named = (
        ("text_template", data.text_template),
        ("prompt_template", data.prompt_template),
        ("answer_template", data.answer_template),
    )
    return [(name, template) for name, template in named if template is not None]


def _fields_or_none(template: str) -> tuple[str, ...]:
    """The fields of a template; none if it cannot be read, which is another rule's problem."""
    try:
        return template_fields(template)
    except ValueError:
        return ()


def list_files(files: "str | Sequence[str] | dict[str, str] | None") -> tuple[str, ...]:
    """The files of a data field in any of its forms."""
    if files is None:
        return ()
    if isinstance(files, str):
        return (files,)
    return tuple(files.values()) if isinstance(files, dict) else tuple(files)


def _suggest(word: str, words: Iterable[str]) -> str:
    close = get_close_matches(word, list(words), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
