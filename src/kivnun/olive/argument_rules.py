"""What single training arguments of Hugging Face become: a rule for each kind of value."""

from typing import Final, cast

from kivnun.olive.groups import only
from kivnun.olive.meanings import ArgumentRule, Surroundings, becomes, is_number, refused, same
from kivnun.olive.translation import Meaning


def number(path: str, *, note: str = "") -> ArgumentRule:
    """A number that goes into a field as it is."""

    def rule(name: str, value: object, _: Surroundings) -> Meaning:
        return becomes(name, path, value, note) if is_number(value) else _not("a number", value)

    return rule


def whole(path: str, *, hint: str = "") -> ArgumentRule:
    """A whole number above zero."""

    def rule(name: str, value: object, _: Surroundings) -> Meaning:
        if not is_number(value, whole=True) or cast("int", value) < 1:
            return refused(f"should be a whole number above 0 (got {value!r}){hint}")
        return becomes(name, path, value)

    return rule


def seed(name: str, value: object, _: Surroundings) -> Meaning:
    """A whole number of 32 bits."""
    is_seed = is_number(value, whole=True) and 0 <= cast("int", value) < 2**32
    return becomes(name, "training.seed", value) if is_seed else _not("a whole number of at least 0", value)


def _not(what: str, value: object) -> Meaning:
    return refused(f"should be {what} (got {value!r})")


def flag(path: str) -> ArgumentRule:
    """True or false."""

    def rule(name: str, value: object, _: Surroundings) -> Meaning:
        return becomes(name, path, value) if isinstance(value, bool) else _not("true or false", value)

    return rule


def only_values(allowed: tuple[object, ...], because: str, otherwise: str) -> ArgumentRule:
    """Values that say what Kivnun does anyway; any other one is an error."""
    rule = only(allowed, because, otherwise)
    return lambda _name, value, _around: rule(value)


def never_given(reason: str) -> ArgumentRule:
    """An argument without a counterpart."""
    return lambda _name, _value, _around: refused(reason)


def max_steps(name: str, value: object, around: Surroundings) -> Meaning:
    """`max_steps`, where -1 is none."""
    if value == -1 and not isinstance(value, bool):
        return same("no limit: the epochs decide")
    note = (
        "training stops there or after the epochs, whichever comes first" if "num_train_epochs" in around.given else ""
    )
    meaning = whole("training.max_steps")(name, value, around)
    return Meaning(meaning.outcome, meaning.fields, meaning.note or note)


def batch_size(name: str, value: object, around: Surroundings) -> Meaning:
    """`per_device_train_batch_size`, in tokens where Olive's rows are blocks of joined rows."""
    if not is_number(value, whole=True) or cast("int", value) < 1:
        return refused(f"should be a whole number above 0 (got {value!r})")
    if around.block_tokens is None:
        return becomes(name, "training.batch_size", value)
    note = f"{value} x {around.block_tokens} tokens: a row of Olive's is a block of joined rows, Kivnun's is not"
    return Meaning("renamed", {"training.batch_tokens": cast("int", value) * around.block_tokens}, note)


def warmup_steps(_: str, value: object, around: Surroundings) -> Meaning:
    """`warmup_steps`, as a share of the steps."""
    if not is_number(value) or cast("float", value) < 0:
        return _not("a number of steps", value)
    number, steps = cast("float", value), around.given.get("max_steps")
    problem = _warmup_problem(number, steps, around)
    if problem:
        return refused(problem)
    if number < 1:
        return Meaning("renamed", {"training.warmup_ratio": number}, "a share of the steps")
    ratio = number / cast("int", steps)
    return Meaning("renamed", {"training.warmup_ratio": ratio}, f"{value} of {steps} steps")


def _warmup_problem(number: float, steps: object, around: Surroundings) -> str:
    """Why a number of warm-up steps cannot be taken."""
    if "warmup_ratio" in around.given:
        return "stands beside warmup_ratio; keep one of them"
    if around.given.get("lr_scheduler_type") == "constant" and number:
        return _NO_WARMUP
    if number < 1:
        return ""
    if not is_number(steps, whole=True) or cast("int", steps) < 1:
        return "needs max_steps, since Kivnun's warm-up is a share of the steps; write warmup_ratio"
    if "num_train_epochs" in around.given:
        return "is a share of steps that num_train_epochs may cut short; write warmup_ratio, or one of them"
    return (
        f"{number:g} leaves no steps after the warm-up (max_steps is {steps})" if number >= cast("int", steps) else ""
    )


_NO_VALIDATION = "has no effect without validation rows; give eval_data_config or eval_dataset_size, or remove it"
_NO_WARMUP = "has no effect: the schedule `constant` has no warm-up; write constant_with_warmup, or remove it"


def warmup_ratio(name: str, value: object, around: Surroundings) -> Meaning:
    """`warmup_ratio`, of schedules that have a warm-up."""
    if around.given.get("lr_scheduler_type") == "constant" and value:
        return refused(_NO_WARMUP)
    return number("training.warmup_ratio")(name, value, around)


SCHEDULES: Final = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
"""Schedules of Hugging Face that Kivnun has."""


def schedule(_: str, value: object, around: Surroundings) -> Meaning:
    """`lr_scheduler_type`, by the recipe's names."""
    name = str(value)
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        return refused(f"{value!r} is no schedule of Kivnun's; write {known}; training.schedule has also wsd")
    fields: dict[str, object] = {"training.schedule": SCHEDULES[name]}
    if name == "constant" and not {"warmup_ratio", "warmup_steps"} & set(around.given):
        return Meaning("renamed", {**fields, "training.warmup_ratio": 0.0}, "`constant` has no warm-up")
    return Meaning("renamed", fields)


def betas(_: str, value: object, around: Surroundings) -> Meaning:
    """`adam_beta1` and `adam_beta2`, which are one pair."""
    if not is_number(value) or not 0 <= cast("float", value) < 1:
        return _not("a number from 0 to below 1", value)
    first, second = (around.given.get(name, own) for name, own in (("adam_beta1", 0.9), ("adam_beta2", 0.999)))
    return Meaning("renamed", {"training.betas": [first, second]})


def data_seed(_: str, value: object, around: Surroundings) -> Meaning:
    """`data_seed`, which cuts rows off where any are."""
    if not is_number(value, whole=True) or cast("int", value) < 0:
        return _not("a whole number", value)
    if around.splits_validation:
        note = "cuts the validation rows off; the order of the training rows is by `seed`"
        return Meaning("renamed", {"data.split.seed": value}, note)
    if value == around.given.get("seed", 42):
        return same("one seed decides the order of rows and all else")
    return refused("has no effect: `seed` decides the order of rows, and no rows are split off; remove it")


def bf16(_: str, value: object, around: Surroundings) -> Meaning:
    """`bf16`, of which false is fp32."""
    if not isinstance(value, bool):
        return _not("true or false", value)
    if value:
        return Meaning("renamed", {"training.precision": "bf16"})
    if around.given.get("fp16") is True:
        return same("fp16 decides")
    return Meaning("renamed", {"training.precision": "fp32"})


def fp16(_: str, value: object, around: Surroundings) -> Meaning:
    """`fp16`, which asks for 16 bits."""
    if not isinstance(value, bool):
        return _not("true or false", value)
    if not value:
        return same("Kivnun never computes in fp16")
    if around.given.get("bf16") is True:
        return refused("stands beside bf16; keep bf16")
    note = "Kivnun's 16-bit format is bf16: as fast, and without loss scaling"
    return Meaning("renamed", {"training.precision": "bf16"}, note)


def strategy(name: str, value: object, around: Surroundings) -> Meaning:
    """`eval_strategy` and its older name."""
    if name == "evaluation_strategy" and "eval_strategy" in around.given:
        return refused("is eval_strategy's old name; keep one of them")
    if value not in ("steps", "epoch", "no"):
        return _not("steps, epoch or no", value)
    if not around.has_validation:
        return same("there are no validation rows") if value == "no" else refused(_NO_VALIDATION)
    meanings = {
        "no": refused("has no effect: validation rows are always used; remove the evaluation data"),
        "epoch": same("validation is once an epoch where no steps are given"),
        "steps": same("eval_steps says how often"),
    }
    if value == "steps" and "eval_steps" not in around.given:
        steps = around.given.get("logging_steps", 500)
        return Meaning(
            "renamed", {"training.validate_every_steps": steps}, "as often as Hugging Face, without eval_steps"
        )
    return meanings[str(value)]


def eval_strategy(around: Surroundings) -> object:
    """The strategy that is given, under its old or its new name."""
    return around.given.get("eval_strategy", around.given.get("evaluation_strategy", "steps"))


def eval_steps(name: str, value: object, around: Surroundings) -> Meaning:
    """`eval_steps`, where there are rows to validate on."""
    if eval_strategy(around) != "steps":
        return refused(f"has no effect on eval_strategy: {eval_strategy(around)}; remove one of them")
    if not around.has_validation:
        return refused(_NO_VALIDATION)
    return whole("training.validate_every_steps", hint="; write a number of steps")(name, value, around)


def save_strategy(_: str, value: object, around: Surroundings) -> Meaning:
    """`save_strategy`, by steps alone."""
    if value == "steps":
        if "save_steps" in around.given:
            return same("save_steps says how often")
        return Meaning("renamed", {"training.save_every_steps": 500})
    return refused("checkpoints are by steps, or every five minutes; write save_steps: N, or remove it")


def save_steps(name: str, value: object, around: Surroundings) -> Meaning:
    """`save_steps`, as a number of steps."""
    if around.given.get("save_strategy", "steps") != "steps":
        return refused("has no effect on this save_strategy; remove one of them")
    return whole("training.save_every_steps", hint="; write a number of steps")(name, value, around)


def logging_steps(_: str, value: object, __: Surroundings) -> Meaning:
    """`logging_steps`, where every step is logged."""
    if not is_number(value, whole=True) or cast("int", value) < 1:
        return refused(f"should be a whole number above 0 (got {value!r})")
    return same("every step is logged, in events.jsonl and wherever report_to says")


TRACKERS: Final = ("tensorboard", "csv", "mlflow", "wandb")
"""Trackers that `report_to` may name."""


def report_to(name: str, value: object, _: Surroundings) -> Meaning:
    """`report_to`, one tracker or several."""
    named = cast("list[object]", value) if isinstance(value, list) else [value]
    if named in ([], ["none"], [None]):
        return same("events.jsonl is always written, and nothing beside it unless asked for")
    unknown = [each for each in named if each not in TRACKERS]
    if unknown:
        return refused(f"{unknown[0]!r} is no tracker of Kivnun's; write {', '.join(TRACKERS)} or none")
    return becomes(name, "training.report_to", named)


OPTIMIZERS: Final = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), "adamw_8bit"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "adamw"),
}
"""Optimizers of Hugging Face that Kivnun has."""


def optimizer(_: str, value: object, __: Surroundings) -> Meaning:
    """`optim`, by the recipe's names."""
    name = str(value)
    if name not in OPTIMIZERS:
        return refused(f"{value!r} is no optimizer of Kivnun's; write one of {', '.join(OPTIMIZERS)}")
    note = "paging moves memory and changes no number; Kivnun does not page" if name.startswith("paged") else ""
    return Meaning("renamed", {"training.optimizer": OPTIMIZERS[name]}, note)


METRICS: Final = {
    **dict.fromkeys(("loss", "eval_loss"), "loss"),
    **dict.fromkeys(("accuracy", "eval_accuracy"), "accuracy"),
    **dict.fromkeys(("f1", "eval_f1", "macro_f1", "eval_macro_f1"), "macro_f1"),
    **dict.fromkeys(("rougeL", "eval_rougeL", "rouge_l"), "rouge_l"),
    **dict.fromkeys(("exact_match", "eval_exact_match"), "exact_match"),
}
"""Names of metrics."""


def metric(_: str, value: object, around: Surroundings) -> Meaning:
    """`metric_for_best_model`, by the recipe's names."""
    metric = METRICS.get(str(value))
    if metric is None:
        return refused(f"{value!r} is not measured while training; write one of {', '.join(METRICS)}")
    if not around.has_validation:
        return refused(_NO_VALIDATION)
    fields: dict[str, object] = {"training.best_metric": metric}
    if metric != "loss":
        fields["training.validation_metrics"] = [metric]
    return Meaning("renamed", fields)


def greater_is_better(_: str, value: object, around: Surroundings) -> Meaning:
    """`greater_is_better`, which is known of every metric."""
    metric = METRICS.get(str(around.given.get("metric_for_best_model", "loss")), "loss")
    is_better = metric != "loss"
    if value is is_better:
        return same(f"it is known of {metric}")
    return refused(f"of {metric}, {'more' if is_better else 'less'} is better; remove it")


def load_best(_: str, value: object, around: Surroundings) -> Meaning:
    """`load_best_model_at_end`, which is so where there are validation rows."""
    if value is False and not around.has_validation:
        return same("without validation rows the last step is kept")
    if value is True and around.has_validation:
        return same("the best step by the validation rows is kept")
    if value is True:
        return refused(_NO_VALIDATION)
    return refused("the best step by the validation rows is always kept; remove it")


def do_eval(_: str, value: object, around: Surroundings) -> Meaning:
    """`do_eval`, which is so where there are validation rows."""
    if not isinstance(value, bool):
        return _not("true or false", value)
    if value is around.has_validation:
        return same("validation rows are used" if value else "there are no validation rows")
    return refused(_NO_VALIDATION if value else "remove the evaluation data instead")


def run_name(_: str, value: object, __: Surroundings) -> Meaning:
    """`run_name`, the run's name in reports."""
    return Meaning("renamed", {"name": value})
